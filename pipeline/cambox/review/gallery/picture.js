// A picture with its heat, its boxes, and their names.
const byId = (id) => document.getElementById(id);
const element = (tag, name, text) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
};
// A long key or path may break after its own marks, and not in the middle of a word.
const breakable = (text) => {
  const made = element("span");
  for (const part of text.split(/(?<=[\/_.,:-])/)) made.append(part, document.createElement("wbr"));
  return made;
};

const Picture = (data) => {
  const TAG_HEIGHT = 16;
  const MARKS = { accept: "\u2713 ", reject: "\u2717 " };
  const className = (id) => data.classes[id];
  const colour = (id) => `var(--class-${id % data.colours})`;
  const boxName = (box) => (box.verdict === "wrong_class" ? `${className(box.class_id)} \u2192 ${box.to_class}` : className(box.class_id));

  // Moved to where the cells look; those at the edges are there twice, for what they leave free.
  const heatMap = (map) => {
    const made = element("div", "heat");
    const canvas = element("canvas");
    canvas.width = map.width + 2;
    canvas.height = map.height + 2;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    const values = atob(map.values);
    const within = (place, count) => Math.min(Math.max(place - 1, 0), count - 1);
    for (let at = 0; at < canvas.width * canvas.height; at++) {
      const row = within(Math.floor(at / canvas.width), map.height);
      const column = within(at % canvas.width, map.width);
      const place = (values.charCodeAt(row * map.width + column) / 255) * (data.heat.length - 1);
      const low = Math.min(Math.floor(place), data.heat.length - 2);
      for (let channel = 0; channel < 3; channel++) {
        pixels.data[4 * at + channel] = data.heat[low][channel] + (place - low) * (data.heat[low + 1][channel] - data.heat[low][channel]);
      }
      pixels.data[4 * at + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    const share = (cells, count) => `${(100 * cells) / count}%`;
    const first = data.offset - 1;
    Object.assign(canvas.style, { left: share(first, map.width), top: share(first, map.height), width: share(canvas.width, map.width), height: share(canvas.height, map.height) });
    made.append(canvas);
    return made;
  };
  const mapFor = (item, classId) =>
    item.maps.find((map) => map.class_id === classId) ||
    item.maps.find((map) => item.boxes.length && map.class_id === item.boxes[0].class_id) || item.maps[0];

  const SVG = "http://www.w3.org/2000/svg";
  const frame = (corners, name) => {
    const rect = document.createElementNS(SVG, "rect");
    const [left, top, right, bottom] = corners;
    for (const [side, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) rect.setAttribute(side, value);
    rect.setAttribute("class", name);
    return rect;
  };
  const frames = (item, boxes, active) => {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 1 1");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("aria-hidden", "true");
    for (const other of item.beside) svg.append(frame(other.corners, "other"));
    for (const box of boxes) {
      const drawn = frame(box.corners, `box ${box.verdict || "open"}`);
      drawn.style.stroke = colour(box.class_id);
      svg.append(frame(box.corners, box === active ? "under active" : "under"), drawn);
    }
    return svg;
  };

  const pen = element("canvas").getContext("2d");
  const overlaps = (one, two) => one.x < two.x + two.width && two.x < one.x + one.width && one.y < two.y + TAG_HEIGHT && two.y < one.y + TAG_HEIGHT;
  // Small pictures have no room for more than the right class.
  const tagText = (box, withScore) => {
    const name = !withScore && box.to_class ? `\u2192 ${box.to_class}` : boxName(box);
    return (MARKS[box.verdict] || "") + name + (withScore ? ` ${box.box_score.toFixed(2)}` : "");
  };
  // Above the box where there is room, else inside it; then down past other names, as on the contact sheet.
  const tags = (boxes, size, withScore, beside) => {
    pen.font = "600 11px system-ui, sans-serif";
    const taken = [];
    return boxes.map((box) => {
      const text = tagText(box, withScore);
      const width = Math.min(pen.measureText(text).width + 11, size[0] + 2 * beside);
      const top = box.corners[1] * size[1];
      const place = { x: Math.max(-beside, Math.min(box.corners[0] * size[0], size[0] + beside - width)), y: top >= TAG_HEIGHT ? top - TAG_HEIGHT : top, width };
      while (place.y < size[1] && taken.some((one) => overlaps(one, place))) place.y += 1;
      place.y = Math.max(0, Math.min(place.y, size[1] - TAG_HEIGHT));
      taken.push(place);
      const tag = element("span", `tag ${box.verdict || "open"}`, text);
      Object.assign(tag.style, { left: `${place.x}px`, top: `${place.y}px`, maxWidth: `${width}px`, background: colour(box.class_id) });
      return tag;
    });
  };

  // look: {room: [width, height] in pixels, boxes: those to draw or null, classId: whose heat, heat: 0 to 1, active: a box or null, scores: with the names}
  const draw = (at, look) => {
    const item = data.items[at];
    const made = element("div", "picture");
    const scale = item.width ? Math.min(look.room[0] / item.width, look.room[1] / item.height) : 1;
    const size = item.width ? [item.width * scale, item.height * scale] : look.room;
    made.style.width = `${size[0]}px`;
    made.style.height = `${size[1]}px`;
    const source = byId(`picture-${at}`);
    if (source) {
      const image = element("img");
      image.alt = "";
      image.decoding = "async";
      image.src = `data:image/webp;base64,${source.textContent}`;
      made.append(image);
    } else {
      made.append(element("span", "why", item.problem || item.error || "no picture"));
    }
    const map = mapFor(item, look.classId);
    if (map && look.heat > 0) {
      const heat = heatMap(map);
      heat.style.opacity = look.heat;
      made.append(heat);
    }
    // In a card a narrow picture has room on both sides.
    const beside = look.scores ? 0 : (look.room[0] - size[0]) / 2;
    if (look.boxes) made.append(frames(item, look.boxes, look.active), ...tags(look.boxes, size, look.scores, beside));
    return made;
  };
  const dot = (box) => {
    const made = element("span", "dot");
    made.style.background = colour(box.class_id);
    return made;
  };
  return { draw, mapFor, className, boxName, dot };
};
