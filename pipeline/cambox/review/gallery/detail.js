// One picture in a window of its own, and what a reviewer says of its boxes, by keys or by buttons.
const Detail = (data, pictures, cards, decisions, view, changed) => {
  const { all, target, named, WORDS } = Decisions;
  const dialog = byId("detail");
  const naming = byId("naming");
  const current = { at: 0, unit: null, classId: null, shown: [] };
  const item = () => data.items[current.at];
  const say = (text) => { byId("said").textContent = text; };

  // The units that the filters let through; all of them where they leave none.
  const units = (at) => {
    const fitting = all(data.items[at]).filter((unit) => unit !== null && Filters.fits(data.items[at].boxes[unit], view().query));
    return fitting.length ? fitting : all(data.items[at]);
  };
  const isOpen = (at) => (unit) => !target(data.items[at], unit).verdict;

  const row = (cells, tag) => {
    const made = element("tr");
    for (const cell of cells) {
      const one = element(tag || "td");
      one.append(cell);
      made.append(one);
    }
    return made;
  };
  const facts = (one) => {
    const made = element("table", "facts");
    for (const [name, content] of [
      ["shard", breakable(`${data.shards[one.shard]}, sample ${one.sample_index}`)],
      ["status", one.error ? `${one.status}: ${one.error}` : one.status],
      ["picture", one.problem || (one.width ? `${one.width} x ${one.height}` : "none")],
      ["labels", one.labels.map(pictures.className).join(", ") || "none"],
      ...one.doubts.map((doubt) => ["look because", cards.doubtText(doubt)]),
      ...(one.disagreement === null ? [] : [["beside", `disagreement ${one.disagreement.toFixed(2)}, dashed: ${one.beside.map((box) => box.class_name).join(", ") || "no box"}`]]),
      ["predicted", one.predicted.map(([id, probability]) => `${pictures.className(id)} ${probability.toFixed(3)}`).join(", ") || "nothing"],
    ]) made.append(row([name, content]));
    return made;
  };
  const boxTable = (one) => {
    const table = element("table", "boxes");
    table.append(row(["class", "verdict", "box_score", "class_score", "area", "pixels"], "th"));
    one.boxes.forEach((box, unit) => {
      const name = element("button", "choose");
      name.type = "button";
      name.append(pictures.dot(box), pictures.className(box.class_id));
      name.addEventListener("click", () => { current.unit = unit; draw(); });
      const verdict = box.verdict === "wrong_class" ? `is ${box.to_class}` : WORDS[box.verdict] || "";
      const [left, top, right, bottom] = box.sides.map(Math.round);
      const made = row([name, verdict, box.box_score.toFixed(3), box.class_score.toFixed(3), `${(100 * Filters.area(box)).toFixed(1)} %`, `${left}, ${top} to ${right}, ${bottom}${box.at_edge ? ", at the edge" : ""}`]);
      if (unit === current.unit) {
        made.className = "active";
        name.setAttribute("aria-current", "true");
      }
      table.append(made);
    });
    const room = element("div", "scroll");
    room.append(table);
    return room;
  };
  const chips = (one) => {
    const made = element("div", "chips");
    const on = pictures.mapFor(one, current.classId);
    for (const map of one.maps) {
      const chip = element("button", "", `heat of ${pictures.className(map.class_id)}`);
      chip.type = "button";
      chip.setAttribute("aria-pressed", String(map === on && view().heat > 0));
      chip.addEventListener("click", () => {
        current.classId = map.class_id;
        if (view().heat === 0) {
          byId("heat").value = 55;
          byId("heat").dispatchEvent(new Event("input"));
        }
        draw();
      });
      made.append(chip);
    }
    return made;
  };
  const draw = () => {
    const one = item();
    const keepsFocus = dialog.contains(document.activeElement) && document.activeElement.classList.contains("choose");
    byId("detail-key").replaceChildren(breakable(one.key));
    const decided = all(one).filter((unit) => target(one, unit).verdict).length;
    byId("detail-place").textContent = `${current.shown.indexOf(current.at) + 1} of ${current.shown.length}; ${decided} of ${all(one).length} decided`;
    const room = [Math.min(520, window.innerWidth * 0.96 - 36), Math.min(560, window.innerHeight * 0.6)];
    const boxes = view().drawsBoxes ? one.boxes : null;
    const active = current.unit === null ? null : one.boxes[current.unit];
    byId("detail-picture").replaceChildren(pictures.draw(current.at, { room, boxes, classId: current.classId, heat: view().heat, active, scores: true }));
    byId("detail-text").replaceChildren(...(one.boxes.length ? [boxTable(one)] : []), facts(one), chips(one));
    const chosen = dialog.querySelector('.choose[aria-current="true"]');
    if (keepsFocus && chosen) chosen.focus();
  };

  const open = (at, unit) => {
    current.at = at;
    current.classId = view().query.class;
    const some = units(at);
    current.unit = unit !== undefined ? unit : some.find(isOpen(at)) ?? some[0] ?? null;
    naming.hidden = true;
    if (dialog.open) return draw();
    // What is decided stays in its place until the window is closed.
    current.shown = view().shown;
    draw();
    say("");
    dialog.showModal();
    byId("accept").focus();
  };
  const step = (by) => {
    const place = current.shown.indexOf(current.at) + by;
    if (place >= 0 && place < current.shown.length) open(current.shown[place]);
    else say(by > 0 ? "This is the last picture." : "This is the first picture.");
  };
  const choose = (by) => {
    const some = units(current.at);
    if (!some.length) return;
    current.unit = some[(some.indexOf(current.unit) + by + some.length) % some.length];
    draw();
  };
  // To what is next and open: in this picture, else in the first one after it that has any.
  const advance = () => {
    const some = units(current.at);
    const after = some.slice(some.indexOf(current.unit) + 1);
    const here = [...after, ...some].find(isOpen(current.at));
    if (here !== undefined) {
      current.unit = here;
      return draw();
    }
    const next = current.shown.slice(current.shown.indexOf(current.at) + 1).find((at) => units(at).some(isOpen(at)));
    if (next !== undefined) return open(next);
    draw();
    byId("said").append(" No open box follows.");
  };

  const unitName = (unit) => (unit === null ? "no box" : `${pictures.className(item().boxes[unit].class_id)} ${item().boxes[unit].box_score.toFixed(2)}`);
  const decide = (some, verdict, toClass) => {
    if (!all(item()).length) return say(`There is nothing to decide: ${item().status}.`);
    if (current.unit === null && verdict !== "accept") return say("There is no box to reject. Accept says that the picture rightly has none; boxes that are missing are drawn in a labelling tool (cambox export).");
    const names = some.length === 1 ? unitName(some[0]) : `${some.length} boxes`;
    decisions.decide(current.at, some, verdict, toClass);
    say(`${item().key}: ${names} ${toClass ? `is ${toClass}` : WORDS[verdict]}.`);
    changed(current.at);
    advance();
  };
  const acceptOpen = () => {
    const some = units(current.at).filter(isOpen(current.at));
    if (some.length) decide(some, "accept");
    else advance();
  };
  const undo = () => {
    const was = decisions.undo();
    if (!was) return say("There is nothing to undo.");
    open(was.at, was.unit);
    say(`${item().key}: ${unitName(was.unit)} is open again.`);
    changed(was.at);
  };
  const askName = () => {
    if (current.unit === null) return decide([null], "wrong_class");
    naming.hidden = false;
    byId("to-class").value = "";
    byId("to-class").focus();
    say(`Which class is ${unitName(current.unit)}? Type its name and press Enter; Escape goes back.`);
  };
  const stopNaming = () => {
    naming.hidden = true;
    byId("accept").focus();
  };
  naming.addEventListener("submit", (event) => {
    event.preventDefault();
    const name = named(data.classes, byId("to-class").value);
    if (name === null) return say("No class, or more than one, has a name that begins so.");
    if (name === pictures.className(item().boxes[current.unit].class_id)) return say(`It is called ${name} already: Escape, then accept.`);
    stopNaming();
    decide([current.unit], "wrong_class", name);
  });

  const one = (verdict) => () => decide([current.unit], verdict);
  const ACTIONS = {
    accept: one("accept"), reject: one("reject"), wrong: askName, undo, "accept-all": acceptOpen,
    next: () => step(1), previous: () => step(-1), close: () => dialog.close(),
  };
  for (const [id, action] of Object.entries(ACTIONS)) byId(id).addEventListener("click", action);
  const KEYS = {
    a: ACTIONS.accept, A: acceptOpen, r: ACTIONS.reject, c: askName, u: undo, s: () => byId("save").click(),
    ArrowRight: ACTIONS.next, n: ACTIONS.next, ArrowLeft: ACTIONS.previous, p: ACTIONS.previous,
    ArrowDown: () => choose(1), ArrowUp: () => choose(-1),
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.target === byId("to-class")) {
      if (event.key !== "Escape") return;
      event.preventDefault();
      return stopNaming();
    }
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  dialog.addEventListener("close", () => changed(null));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  return { open, at: () => current.at, say };
};
