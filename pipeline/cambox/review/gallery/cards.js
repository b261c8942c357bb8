// The pictures in a grid: what stands below each, and which of them are drawn.
const Cards = (data, pictures, view, open) => {
  const { fits } = Filters;
  const doubtText = (one) => {
    if (one.doubt === null) return `${one.reason} (picked, ${one.rank})`;
    const what = [one.class_name && `given ${one.class_name}`, one.likelier && `likelier ${one.likelier}`].filter(Boolean).join(", ");
    return `${one.reason} (doubt ${one.doubt.toFixed(2)}): ${what}`;
  };
  const caption = (item, query) => {
    const made = element("span", "caption");
    const key = breakable(item.key);
    key.className = "key";
    made.append(key);
    for (const one of item.doubts) made.append(element("span", "doubted", doubtText(one)));
    const line = element("span", "soft");
    if (item.status !== "ok") line.append(element("span", "failed", item.status));
    const boxes = item.boxes.filter((box) => fits(box, query));
    if (item.status === "ok" && !boxes.length) line.append(item.boxes.length ? "no such box" : item.verdict ? "no box: accepted" : "no box");
    for (const box of boxes.slice(0, 4)) {
      const one = element("span", `named ${box.verdict || "open"}`);
      one.append(pictures.dot(box), `${pictures.boxName(box)} ${box.box_score.toFixed(2)}`);
      // That it is of another class stands in its name.
      if (box.verdict && !box.to_class) one.append(element("span", "verdict", ` ${Decisions.WORDS[box.verdict]}`));
      line.append(one);
    }
    if (boxes.length > 4) line.append(`and ${boxes.length - 4} more`);
    made.append(line);
    if (item.disagreement !== null) made.append(element("span", "soft", `disagreement ${item.disagreement.toFixed(2)}`));
    return made;
  };

  // A card is empty until it is near the window, and empties itself when it is far from it.
  const cards = data.items.map((_, at) => {
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
    const { query, heat, drawsBoxes } = view();
    const boxes = drawsBoxes ? data.items[at].boxes.filter((box) => fits(box, query)) : null;
    frame.replaceChildren(pictures.draw(at, { room: [frame.clientWidth || 210, frame.clientHeight || 180], boxes, classId: query.class, heat, active: null, scores: false }));
    oldCaption.replaceWith(caption(data.items[at], query));
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

  // Draw again what is near; ats: the items to show, in their order.
  const redraw = () => near.forEach(fill);
  const show = (ats) => {
    byId("grid").replaceChildren(...ats.map((at) => cards[at]));
    redraw();
  };
  const focus = (at) => (cards[at].isConnected ? cards[at] : byId("grid")).focus();
  const refill = (at) => near.has(at) && fill(at);
  return { show, redraw, refill, focus, doubtText };
};
