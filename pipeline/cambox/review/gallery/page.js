// The page: its filters, the address, the progress of the review, and its file.
(() => {
  const data = JSON.parse(byId("data").textContent);
  const { items } = data;
  const form = byId("filters");
  for (const item of items) {
    const shares = (box) => { box.corners = box.sides.map((side, at) => side / (at % 2 ? item.height : item.width)); };
    item.boxes.forEach(shares);
    item.beside.forEach(shares);
  }

  // What is asked for.
  const asked = () => ({
    text: byId("text").value.toLowerCase(),
    class: byId("class").value === "" ? null : Number(byId("class").value),
    status: byId("status").value,
    boxes: byId("boxes").value,
    score: [Number(byId("score-from").value), Number(byId("score-to").value || 1)],
    area: [Number(byId("area-from").value) / 100, Number(byId("area-to").value || 100) / 100],
    decided: byId("decided").value,
    sort: byId("sort").value,
  });
  let query = asked();
  let shown = [];
  const view = () => ({ query, shown, heat: Number(byId("heat").value) / 100, drawsBoxes: byId("show-boxes").checked });

  // Some browsers give a file no storage, and even its name may throw.
  const memory = () => {
    const kept = new Map();
    return { getItem: (name) => kept.get(name) ?? null, setItem: (name, text) => kept.set(name, text), removeItem: (name) => kept.delete(name) };
  };
  const storage = (() => {
    try {
      const store = window.localStorage;
      store.setItem("cambox-review", "");
      store.removeItem("cambox-review");
      return store;
    } catch {
      return null;
    }
  })();
  const decisions = Decisions.start(data, storage || memory());
  const { state } = decisions;
  if (!storage) state.kept = false;

  const count = (number) => number.toLocaleString("en");
  const tellProgress = () => {
    const { units, done, accept, reject, wrong_class: wrong } = decisions.progress();
    byId("progress").max = Math.max(units, 1);
    byId("progress").value = done;
    byId("progress-text").textContent = `${count(done)} of ${count(units)} decided`;
    byId("progress").title = `${accept} accepted, ${reject} rejected, ${wrong} of another class`;
    byId("save").disabled = done === 0;
    byId("start").disabled = done === units;
  };
  const tellKept = () => {
    const other = state.other ? ` ${state.other} remembered pictures have other boxes now and are open.` : "";
    byId("kept").textContent = (state.kept ? "Decisions stay in this browser." : "This browser keeps no decisions of this page: save them before you close it.") + other;
  };
  const cards = Cards(data, Picture(data), view, (at) => detail.open(at));
  const detail = Detail(data, Picture(data), cards, decisions, view, (at) => {
    tellProgress();
    tellKept();
    if (at !== null) return cards.refill(at);
    // The window is closed: nothing else depends on what was decided in it.
    if (query.decided) show();
    cards.focus(detail.at());
  });

  const show = () => {
    query = asked();
    shown = Filters.ordered(items, query);
    cards.show(shown);
    byId("count").textContent = `${count(shown.length)} of ${count(items.length)} shown`;
    byId("nothing").hidden = shown.length > 0;
    remember();
  };

  byId("start").addEventListener("click", () => {
    const open = shown.find((at) => Decisions.all(items[at]).some((unit) => !Decisions.target(items[at], unit).verdict));
    if (open === undefined) byId("kept").textContent = "All that is shown is decided.";
    else detail.open(open);
  });
  byId("save").addEventListener("click", () => {
    const file = decisions.file(new Date().toISOString().replace(/\.\d+Z$/, "Z"));
    const link = element("a");
    link.download = `review-${data.recipe.slice(0, 16)}.json`;
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    state.unsaved = false;
    const said = `Saved ${link.download}, ${count(file.rows.length)} pictures. Give it to cambox corrections.`;
    byId("kept").textContent = said;
    detail.say(said);
  });
  window.addEventListener("beforeunload", (event) => {
    if (!state.kept && state.unsaved) event.preventDefault();
  });

  // The filters are in the address, so that a view can be sent to somebody.
  const fields = [...form.elements].filter((field) => field.id);
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
    for (const [text, label, number] of counts) {
      const option = element("option", "", `${label} (${number})`);
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
  options(byId("class"), [...classCounts].map(([id, number]) => [id, data.classes[id], number]).sort((a, b) => a[1].localeCompare(b[1]) || a[0] - b[0]));
  options(byId("status"), [...tally(items.map((item) => [item.status]))].map(([name, number]) => [name, name, number]).sort());
  byId("class-names").append(...[...new Set(data.classes)].map((name) => {
    const option = element("option");
    option.value = name;
    return option;
  }));

  document.addEventListener("keydown", (event) => {
    const writes = ["INPUT", "SELECT"].includes(document.activeElement.tagName);
    if (byId("detail").open || writes || event.key !== "/") return;
    event.preventDefault();
    byId("fold").open = true;
    byId("text").focus();
  });
  let before = 0;
  byId("heat").addEventListener("change", (event) => event.stopPropagation());
  byId("heat").addEventListener("input", (event) => {
    event.stopPropagation();
    const now = Number(byId("heat").value);
    // Fading what is drawn already costs nothing; only from and to zero a map comes or goes.
    if ((before > 0) === (now > 0)) for (const heat of document.querySelectorAll(".picture .heat")) heat.style.opacity = now / 100;
    else cards.redraw();
    before = now;
    remember();
  });
  // Some drivers of browsers send only one of the two.
  for (const kind of ["input", "change"]) form.addEventListener(kind, show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { before = Number(byId("heat").value); show(); }));

  // On a narrow screen figures and filters are folded until they are asked for, and the pictures come first.
  const narrow = window.matchMedia("(max-width: 640px)");
  const fold = () => { for (const id of ["figures", "fold"]) byId(id).open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  window.addEventListener("resize", cards.redraw);
  fold();
  recall();
  before = Number(byId("heat").value);
  tellProgress();
  tellKept();
  show();
  document.documentElement.dataset.ready = "true";
})();
