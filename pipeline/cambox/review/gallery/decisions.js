// What a reviewer says of boxes: kept row by row in a store, taken back, counted, and made a file. No page, only data.
//   A unit is a box by its place in its item, or null: the item itself, of which no box is right.
//   store: {getItem, setItem, removeItem}, such as localStorage; each of them may throw.
const Decisions = (() => {
  const FORMAT = "cambox-review-1";
  const WORDS = { accept: "accepted", reject: "rejected", wrong_class: "wrong class" };
  const SIDES = ["x_min", "y_min", "x_max", "y_max"];

  // The row as the file has it.
  const rowOf = (data, item) => {
    const row = { shard: data.shards[item.shard], key: item.key, width: item.width, height: item.height };
    if (item.verdict) row.verdict = item.verdict;
    row.boxes = item.boxes.map((box) => ({
      class_id: box.class_id,
      class_name: data.classes[box.class_id],
      ...Object.fromEntries(SIDES.map((side, at) => [side, box.sides[at]])),
      box_score: box.box_score,
      verdict: box.verdict || null,
      to_class: box.to_class || null,
    }));
    return row;
  };
  const content = (row) => JSON.stringify([row.width, row.height, row.boxes.map((box) => [box.class_name, ...SIDES.map((side) => box[side])])]);
  const all = (item) => (item.boxes.length ? item.boxes.map((_, unit) => unit) : Filters.units(item, []).map(() => null));
  const target = (item, unit) => (unit === null ? item : item.boxes[unit]);
  const isReviewed = (item) => all(item).some((unit) => target(item, unit).verdict);

  const start = (data, store) => {
    const history = [];
    // kept: whether the store takes what is said; other: rows it holds of boxes that are no more; unsaved: since the last file.
    const state = { kept: true, other: 0, recalled: 0, unsaved: false };
    const name = (item) => `cambox-review ${data.recipe} ${data.shards[item.shard]} ${item.key}`;
    const keep = (item) => {
      state.unsaved = true;
      try {
        if (isReviewed(item)) store.setItem(name(item), JSON.stringify(rowOf(data, item)));
        else store.removeItem(name(item));
      } catch {
        state.kept = false;
      }
    };
    const put = (item, unit, verdict, toClass) => {
      const one = target(item, unit);
      const before = { unit, verdict: one.verdict || null, to_class: one.to_class || null };
      one.verdict = verdict;
      one.to_class = toClass;
      return before;
    };

    // One step for undo, however many units.
    const decide = (at, units, verdict, toClass = null) => {
      const item = data.items[at];
      history.push({ at, before: units.map((unit) => put(item, unit, verdict, toClass)) });
      keep(item);
    };
    // Which item and unit it was of; null where there is nothing to take back.
    const undo = () => {
      const step = history.pop();
      if (!step) return null;
      const item = data.items[step.at];
      for (const one of step.before) put(item, one.unit, one.verdict, one.to_class);
      keep(item);
      return { at: step.at, unit: step.before[0].unit };
    };
    const progress = () => {
      const counts = { units: 0, done: 0, accept: 0, reject: 0, wrong_class: 0 };
      for (const item of data.items) {
        for (const unit of all(item)) {
          const { verdict } = target(item, unit);
          counts.units += 1;
          if (verdict) counts.done += 1;
          if (verdict) counts[verdict] += 1;
        }
      }
      return counts;
    };
    const file = (madeAt) => ({
      format: FORMAT,
      recipe: data.recipe,
      made_at: madeAt,
      rows: data.items.filter(isReviewed).map((item) => rowOf(data, item)),
    });

    const recall = (item) => {
      const text = store.getItem(name(item));
      if (text === null) return;
      const row = JSON.parse(text);
      if (content(row) !== content(rowOf(data, item))) {
        state.other += 1;
        return;
      }
      if (row.verdict) item.verdict = row.verdict;
      row.boxes.forEach((box, unit) => put(item, unit, box.verdict, box.to_class));
      state.recalled += 1;
    };
    try {
      data.items.forEach(recall);
    } catch {
      state.kept = false;
    }
    return { state, decide, undo, progress, file };
  };

  // The name of the class that a text means: the whole name, or the beginning of one alone; null of none or several.
  const named = (classes, text) => {
    const wanted = text.trim().toLowerCase();
    const names = [...new Set(classes)];
    const exact = names.find((one) => one.toLowerCase() === wanted);
    if (exact !== undefined) return exact;
    const begun = wanted ? names.filter((one) => one.toLowerCase().startsWith(wanted)) : [];
    return begun.length === 1 ? begun[0] : null;
  };
  return { start, all, target, named, WORDS };
})();
