"use strict";
// Which items and boxes a query concerns, and in which order: no page, only data.
//   query: {text, class: id or null, status, boxes: "" | "with" | "one" | "several" | "without", score: [from, to],
//           area: [from, to] (shares), decided: "" | "open" | "done" | a verdict, sort}
const Filters = (() => {
  const area = (box) => (box.corners[2] - box.corners[0]) * (box.corners[3] - box.corners[1]);
  const fits = (box, query) =>
    (query.class === null || box.class_id === query.class) &&
    box.box_score >= query.score[0] && box.box_score <= query.score[1] &&
    area(box) >= query.area[0] && area(box) <= query.area[1];
  // What a reviewer can decide on: boxes, or that an image has rightly none.
  const units = (item, boxes) => (item.boxes.length ? boxes : item.status === "ok" ? [item] : []);
  const isDecided = (unit, as) => (as === "open" ? !unit.verdict : as === "done" ? Boolean(unit.verdict) : unit.verdict === as);
  const concerns = (item, query) => {
    if (!item.key.toLowerCase().includes(query.text)) return false;
    if (query.status && item.status !== query.status) return false;
    const boxes = item.boxes.filter((box) => fits(box, query));
    if (query.decided && !units(item, boxes).some((one) => isDecided(one, query.decided))) return false;
    const everyScore = query.score[0] <= 0 && query.score[1] >= 1 && query.area[0] <= 0 && query.area[1] >= 1;
    if (query.boxes === "with") return boxes.length > 0;
    if (query.boxes === "one") return boxes.length === 1;
    if (query.boxes === "several") return boxes.length > 1;
    const ofClass = query.class === null || item.labels.includes(query.class) || item.maps.some((map) => map.class_id === query.class);
    if (query.boxes === "without") return boxes.length === 0 && ofClass;
    // A class that was looked for and has no box is part of the picture of that class.
    return boxes.length > 0 || (everyScore && ofClass);
  };
  const extreme = (item, query, value, choose, empty) => {
    const values = item.boxes.filter((box) => fits(box, query)).map(value);
    return values.length ? choose(...values) : empty;
  };
  const ORDERS = {
    low: (item, query) => extreme(item, query, (box) => box.box_score, Math.min, 2),
    high: (item, query) => -extreme(item, query, (box) => box.box_score, Math.max, -1),
    "class-low": (item, query) => extreme(item, query, (box) => box.class_score, Math.min, 2),
    small: (item, query) => extreme(item, query, area, Math.min, 2),
    large: (item, query) => -extreme(item, query, area, Math.max, -1),
    many: (item, query) => -item.boxes.filter((box) => fits(box, query)).length,
    class: (item, query) => extreme(item, query, (box) => box.class_id, Math.min, Infinity),
    disagreement: (item) => -(item.disagreement ?? -1),
    doubt: (item) => Math.min(...item.doubts.map((one) => one.rank), Infinity),
    place: () => 0,
  };

  // The places of the items to show.
  const ordered = (items, query) => {
    const shown = items.map((_, at) => at).filter((at) => concerns(items[at], query));
    const order = ORDERS[query.sort] || ORDERS.place;
    const keys = new Map(shown.map((at) => [at, order(items[at], query)]));
    return shown.sort((a, b) => (keys.get(a) === keys.get(b) ? a - b : keys.get(a) - keys.get(b)));
  };
  return { area, fits, units, ordered };
})();
