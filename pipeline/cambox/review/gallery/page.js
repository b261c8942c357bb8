"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const items = data.items;
  const grid = byId("grid");
  const form = byId("filters");
  const dialog = byId("detail");
  const { area, fits, concerns, ordered } = Filters;
  const HEAT = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];
  const className = (id) => data.classes[id];
  // Neighbouring classes get hues far apart.
  const colour = (id) => `hsl(${(id * 137.508) % 360} 85% 62%)`;
  const element = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  // What is asked for.
  const asked = () => ({
    text: byId("text").value.toLowerCase(),
    class: byId("class").value === "" ? null : Number(byId("class").value),
    status: byId("status").value,
    boxes: byId("boxes").value,
    score: [Number(byId("score-from").value), Number(byId("score-to").value || 1)],
    area: [Number(byId("area-from").value) / 100, Number(byId("area-to").value || 100) / 100],
    sort: byId("sort").value,
  });

  const heatMap = (map) => {
    const canvas = document.createElement("canvas");
    canvas.width = map.width;
    canvas.height = map.height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(map.width, map.height);
    const values = atob(map.values);
    for (let at = 0; at < values.length; at++) {
      const place = (values.charCodeAt(at) / 255) * (HEAT.length - 1);
      const low = Math.min(Math.floor(place), HEAT.length - 2);
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[4 * at + channel] = HEAT[low][channel] + (place - low) * (HEAT[low + 1][channel] - HEAT[low][channel]);
      }
      pixels.data[4 * at + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return canvas;
  };
  const mapFor = (item, classId) =>
    item.maps.find((map) => map.class_id === classId) ||
    item.maps.find((map) => item.boxes.length && map.class_id === item.boxes[0].class_id) || item.maps[0];

  const drawBoxes = (item, query) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 1 1");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const box of item.boxes.filter((one) => fits(one, query))) {
      for (const under of [true, false]) {
        const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const [left, top, right, bottom] = box.corners;
        for (const [name, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) rect.setAttribute(name, value);
        if (under) rect.setAttribute("class", "under");
        else rect.style.stroke = colour(box.class_id);
        svg.append(rect);
      }
    }
    return svg;
  };
  const thumbnail = (at) => byId(`picture-${at}`);
  const picture = (at, room, query, classId) => {
    const item = items[at];
    const made = element("div", "picture");
    const scale = item.width ? Math.min(room[0] / item.width, room[1] / item.height) : 1;
    const width = item.width ? item.width * scale : room[0];
    made.style.width = `${width}px`;
    made.style.height = `${item.width ? item.height * scale : room[1]}px`;
    const source = thumbnail(at);
    if (source) {
      const image = element("img");
      image.alt = "";
      image.decoding = "async";
      image.src = `data:image/jpeg;base64,${source.textContent}`;
      made.append(image);
    } else {
      made.append(element("span", "why", item.problem || item.error || "no picture"));
    }
    const map = mapFor(item, classId);
    if (map && Number(byId("heat").value) > 0) {
      const canvas = heatMap(map);
      canvas.style.opacity = byId("heat").value / 100;
      made.append(canvas);
    }
    if (byId("show-boxes").checked) made.append(drawBoxes(item, query));
    return made;
  };

  const doubtText = (one) => {
    const what = [one.class_name && `given ${one.class_name}`, one.likelier && `likelier ${one.likelier}`].filter(Boolean).join(", ");
    return `${one.reason} (doubt ${one.doubt.toFixed(2)}): ${what}`;
  };
  const caption = (item, query) => {
    const made = element("span", "caption");
    const key = element("span", "key", item.key);
    key.title = item.key;
    made.append(key);
    for (const one of item.doubts) made.append(element("span", "doubted", doubtText(one)));
    const line = element("span", "soft");
    if (item.status !== "ok") line.append(element("span", "failed", item.status));
    const boxes = item.boxes.filter((box) => fits(box, query));
    if (item.status === "ok" && !boxes.length) line.append(item.boxes.length ? "no such box" : "no box");
    for (const box of boxes.slice(0, 4)) {
      const dot = element("span", "dot");
      dot.style.background = colour(box.class_id);
      line.append(dot, `${className(box.class_id)} ${box.box_score.toFixed(2)} `);
    }
    if (boxes.length > 4) line.append(`and ${boxes.length - 4} more`);
    made.append(line);
    return made;
  };

  // A card is empty until it is near the window, and empties itself when it is far from it.
  const cards = items.map((item, at) => {
    const card = element("button", "card");
    card.type = "button";
    card.dataset.at = at;
    card.append(element("div", "frame"), element("span", "caption"));
    card.addEventListener("click", () => open(at));
    return card;
  });
  const near = new Set();
  const fill = (at) => {
    const [frame, oldCaption] = cards[at].children;
    frame.replaceChildren(picture(at, [frame.clientWidth || 210, 180], query, query.class));
    oldCaption.replaceWith(caption(items[at], query));
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const at = Number(entry.target.dataset.at);
      if (entry.isIntersecting) {
        near.add(at);
        fill(at);
      } else if (near.delete(at)) {
        cards[at].firstChild.replaceChildren();
      }
    }
  }, { rootMargin: "600px" });
  cards.forEach((card) => watcher.observe(card));

  let query = asked();
  let shown = [];
  const show = () => {
    query = asked();
    shown = ordered(items, query);
    grid.replaceChildren(...shown.map((at) => cards[at]));
    near.forEach(fill);
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} shown`;
    byId("nothing").hidden = shown.length > 0;
    remember();
  };

  // The filters are in the address, so that a view can be sent to somebody.
  const fields = [...form.elements].filter((field) => field.id && field.tagName !== "OUTPUT");
  const value = (field) => (field.type === "checkbox" ? String(field.checked) : field.value);
  const initial = new Map(fields.map((field) => [field.id, value(field)]));
  const remember = () => {
    const changed = fields.filter((field) => value(field) !== initial.get(field.id));
    const text = new URLSearchParams(changed.map((field) => [field.id, value(field)])).toString();
    history.replaceState(null, "", text ? `#${text}` : "#");
  };
  const recall = () => {
    for (const [id, text] of new URLSearchParams(location.hash.slice(1))) {
      const field = fields.find((one) => one.id === id);
      if (!field) continue;
      if (field.type === "checkbox") field.checked = text === "true";
      else field.value = text;
    }
  };

  const options = (select, counts) => {
    for (const [text, label, count] of counts) {
      const option = element("option", "", `${label} (${count})`);
      option.value = text;
      select.append(option);
    }
  };
  const tally = (lists) => {
    const counts = new Map();
    for (const list of lists) for (const one of new Set(list)) counts.set(one, (counts.get(one) || 0) + 1);
    return counts;
  };
  const classCounts = tally(items.map((item) => [...item.boxes.map((box) => box.class_id), ...item.labels, ...item.maps.map((map) => map.class_id)]));
  options(byId("class"), [...classCounts].map(([id, count]) => [id, className(id), count]).sort((a, b) => a[1].localeCompare(b[1]) || a[0] - b[0]));
  options(byId("status"), [...tally(items.map((item) => [item.status]))].map(([name, count]) => [name, name, count]).sort());

  const current = { at: 0, class: null };
  const row = (cells, tag) => {
    const made = element("tr");
    for (const cell of cells) {
      const one = element(tag || "td");
      one.append(cell);
      made.append(one);
    }
    return made;
  };
  const drawDetail = () => {
    const item = items[current.at];
    byId("detail-key").textContent = item.key;
    const room = [Math.min(560, window.innerWidth * 0.86), Math.min(560, window.innerHeight * 0.6)];
    byId("detail-picture").replaceChildren(picture(current.at, room, query, current.class));
    const text = byId("detail-text");
    text.replaceChildren();
    const facts = element("table");
    const names = (ids) => ids.map(className).join(", ") || "none";
    for (const [name, content] of [
      ["shard", `${data.shards[item.shard]}, sample ${item.sample_index}`],
      ["status", item.error ? `${item.status}: ${item.error}` : item.status],
      ["picture", item.problem || (item.width ? `${item.width} x ${item.height}` : "none")],
      ["labels", names(item.labels)],
      ...item.doubts.map((one) => ["doubted", doubtText(one)]),
      ["predicted", item.predicted.map(([id, probability]) => `${className(id)} ${probability.toFixed(3)}`).join(", ") || "nothing"],
    ]) facts.append(row([name, content]));
    text.append(facts);
    if (item.boxes.length) {
      const table = element("table");
      table.append(row(["class", "rank", "class_score", "box_score", "area", "pixels", ""], "th"));
      for (const box of item.boxes) {
        const name = element("span");
        const dot = element("span", "dot");
        dot.style.background = colour(box.class_id);
        name.append(dot, className(box.class_id));
        const [left, top, right, bottom] = box.corners.map((share, side) => Math.round(share * (side % 2 ? item.height : item.width)));
        table.append(row([name, box.rank, box.class_score.toFixed(3), box.box_score.toFixed(3), `${(100 * area(box)).toFixed(1)} %`, `${left}, ${top} to ${right}, ${bottom}`, box.at_edge ? "at the edge" : ""]));
      }
      text.append(table);
    }
    if (item.maps.length) {
      const chips = element("div", "chips");
      const on = mapFor(item, current.class);
      for (const map of item.maps) {
        const chip = element("button", "", `heat of ${className(map.class_id)}`);
        chip.type = "button";
        chip.setAttribute("aria-pressed", String(map === on && Number(byId("heat").value) > 0));
        chip.addEventListener("click", () => {
          current.class = map.class_id;
          if (Number(byId("heat").value) === 0) {
            byId("heat").value = 55;
            show();
          }
          drawDetail();
        });
        chips.append(chip);
      }
      text.append(chips);
    }
  };
  const open = (at) => {
    current.at = at;
    current.class = query.class;
    drawDetail();
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => {
    const place = shown.indexOf(current.at) + by;
    if (place >= 0 && place < shown.length) open(shown[place]);
  };
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => cards[current.at].focus());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (dialog.open && event.key === "ArrowLeft") step(-1);
    else if (dialog.open && event.key === "ArrowRight") step(1);
    else if (!dialog.open && event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
      event.preventDefault();
      byId("text").focus();
    }
  });

  let before = Number(byId("heat").value);
  byId("heat").addEventListener("change", (event) => event.stopPropagation());
  byId("heat").addEventListener("input", (event) => {
    event.stopPropagation();
    const now = Number(byId("heat").value);
    // Fading what is drawn already costs nothing; only from and to zero a map comes or goes.
    if ((before > 0) === (now > 0)) for (const canvas of document.querySelectorAll(".picture canvas")) canvas.style.opacity = now / 100;
    else near.forEach(fill);
    before = now;
    remember();
  });
  // Some drivers of browsers send only one of the two.
  for (const kind of ["input", "change"]) form.addEventListener(kind, show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { before = Number(byId("heat").value); show(); }));
  recall();
  before = Number(byId("heat").value);
  show();
  document.documentElement.dataset.ready = "true";
})();
