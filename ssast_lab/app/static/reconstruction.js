// The view of reconstruction: the model beside baselines that need none, which are lent to the stage as layers and sounds.
(() => {
  const OVERLAYS = [["none", "Nothing", ""], ["mse", "MSE of the model", "bright is far off"], ["gain", "Model against a baseline", "bright is where the model draws better than the baseline that is chosen in the maps"]];
  const TINTS = ["var(--stage-on)", "#868e96", "#e8590c"]; // of the model and its baselines, in their order
  const BETTER = [45, 212, 191], WORSE = [232, 89, 12];
  const COLOUR = "#4df0d8", EXTREME = 4;

  const markup = `
    <p class="view-line"></p>
    <div class="baselines-rows" role="group" aria-label="What is seen and heard"></div>
    <div class="stage-bar"><span class="view-quiet">Over the stage</span><div data-set="overlay">${ssast.choice("Over the stage", OVERLAYS)}</div></div>
    <div class="baselines-below">
      <div class="baselines-maps"></div>
      <figure class="baselines-lines"><h4>MSE <span></span></h4><svg viewBox="0 0 320 190" role="img"></svg></figure>
      <div><h4 class="baselines-title"></h4><div class="match-pictures"></div></div>
    </div>`;

  ssast.view("reconstruction", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    let guests = [], drawers = []; // drawers: the model and its baselines: { name, version, words, mse, patch }
    let overlay = "none", against = 2, axis = null, hover = -1, pinned = -1;

    const floats = (text) => new Float32Array(ssast.bytes(text).buffer);
    const hidden = () => [...picture().mask.keys()].filter((patch) => picture().mask[patch]);

    function show(data) {
      drawers = [{ version: "reconstructed", words: ["The model", "what the model drew"], mse: data.mse, patch: floats(data.patch_mse) },
        ...data.baselines.map((baseline) => ({ version: baseline.name, words: baseline.words, called: baseline.called, mse: baseline.mse, patch: floats(baseline.patch_mse) }))];
      guests = data.baselines.map(({ name, words, levels }) => ({ name, words, levels: ssast.bytes(levels), sound: null }));
      stage.lend(guests);
      axis ??= picture().grid.rows > 1 ? "band" : "time";
      if (picture().grid.rows === 1) axis = "time";
      [hover, pinned] = [stage.state().hover, stage.state().pinned];
      layOut();
      redraw();
    }

    function later(sounds) {
      if (!sounds[drawers[1]?.version]) return;
      guests = guests.map((guest) => ({ ...guest, sound: { ...sounds[guest.name], samples: new Int16Array(ssast.bytes(sounds[guest.name].samples).buffer) } }));
      stage.lend(guests);
      redraw();
    }

    // ---- the panel ----

    function layOut() {
      const [model, ...baselines] = drawers, most = Math.max(...drawers.map(({ mse }) => mse));
      const less = (baseline) => `${ssast.percent(Math.abs(1 - model.mse / baseline.mse))} ${model.mse < baseline.mse ? "less" : "more"} than that of ${baseline.called}`;
      const wins = (baseline) => hidden().filter((patch) => model.patch[patch] < baseline.patch[patch]).length / hidden().length;
      find(".view-line").textContent = `The model's MSE is ${baselines.map(less).join(" and ")}. It draws ` +
        baselines.map((baseline) => `${ssast.percent(wins(baseline))} of the hidden ${picture().data.plural} better than ${baseline.called}`).join(", and ") + ".";
      find(".baselines-rows").innerHTML = drawers.map(({ version, words, mse }, at) => `<button type="button" data-listen="${version}" title="${words[1]}">
        <b>${words[0]}</b><span><i style="width: ${((100 * mse) / most).toFixed(1)}%; background: ${TINTS[at]}"></i></span><output>${mse.toFixed(3)}</output></button>`).join("");
      find(".baselines-maps").innerHTML = baselines.map(({ called }, at) =>
        `<button type="button" data-against="${at + 1}"><canvas width="${picture().grid.columns}" height="${picture().grid.rows}"></canvas><span><b>Model against ${called}</b></span></button>`).join("");
      for (const button of element.querySelectorAll("[data-against]")) drawMap(button.querySelector("canvas"), drawers[button.dataset.against]);
      lines();
    }

    // Twice as good as the baseline is a quarter of the way to the brightest teal, half as good to the brightest orange.
    const advantage = (baseline, patch) => Math.max(-1, Math.min(1, Math.log2(baseline.patch[patch] / drawers[0].patch[patch]) / EXTREME));

    function drawMap(canvas, baseline) {
      const { columns, rows } = picture().grid, context = canvas.getContext("2d");
      context.clearRect(0, 0, columns, rows);
      for (const patch of hidden()) {
        const value = advantage(baseline, patch), [r, g, b] = value > 0 ? BETTER : WORSE;
        context.fillStyle = `rgba(${r}, ${g}, ${b}, ${0.15 + 0.85 * Math.abs(value)})`;
        context.fillRect(patch % columns, rows - 1 - Math.floor(patch / columns), 1, 1);
      }
    }

    // The mean MSE of each band, or of each of some stretches of time.
    function lines() {
      const { rows, columns } = picture().grid, bands = axis === "band", count = bands ? rows : Math.min(columns, 24);
      const group = (patch) => (bands ? Math.floor(patch / columns) : Math.floor(((patch % columns) * count) / columns));
      const left = 38, right = 312, top = 8, bottom = 158;
      const means = drawers.map(({ patch: all }) => {
        const sum = Array(count).fill(0), many = Array(count).fill(0);
        for (const patch of hidden()) { sum[group(patch)] += all[patch]; many[group(patch)] += 1; }
        return sum.map((value, at) => (many[at] ? value / many[at] : null));
      });
      const most = 1.05 * Math.max(...means.flat(), 1e-6), x = (at) => left + ((right - left) * (at + 0.5)) / count, y = (value) => bottom - ((bottom - top) * value) / most;
      const path = (values) => values.map((value, at) => (value === null ? "" : `${at && values[at - 1] !== null ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`)).join("");
      const { data, hertzOf, timeOf, grid } = picture();
      const name = (at) => bands ? ((hertz) => (hertz < 1000 ? hertz.toFixed(0) : `${(hertz / 1000).toFixed(1)}k`))(hertzOf((at + 0.5) * grid.stride[0] - 0.5)) : (data.start + timeOf(((at + 0.5) * grid.frames) / count)).toFixed(1);
      const every = Math.ceil(count / 8);
      find(".baselines-lines h4 span").innerHTML = rows > 1 ? `by <button type="button" data-axis="band" aria-pressed="${bands}">band</button><button type="button" data-axis="time" aria-pressed="${!bands}">time</button>` : "by time";
      find("svg").setAttribute("aria-label", `MSE by ${axis} of the model and its baselines`);
      find("svg").innerHTML = `<path class="axis" d="M${left} ${top}V${bottom}H${right}"/>
        ${[0, 0.5, 1].map((part) => `<text x="${left - 5}" y="${y((part * most) / 1.05) + 4}" text-anchor="end">${((part * most) / 1.05).toFixed(2)}</text>`).join("")}
        ${[...Array(count).keys()].filter((at) => at % every === 0).map((at) => `<text x="${x(at)}" y="${bottom + 14}" text-anchor="middle">${name(at)}</text>`).join("")}
        <text x="${(left + right) / 2}" y="${bottom + 29}" text-anchor="middle">${bands ? "Hz" : "seconds"}</text>
        ${means.map((values, at) => `<path d="${path(values)}" style="stroke: ${TINTS[at]}"/>${values.map((value, where) => (value === null ? "" : `<circle cx="${x(where)}" cy="${y(value)}" r="${at ? 2 : 3}" style="fill: ${TINTS[at]}"><title>${drawers[at].words[0]}: ${value.toFixed(3)}</title></circle>`)).join("")}`).reverse().join("")}`;
    }

    // ---- what follows the pointer ----

    function redraw() {
      ssast.choose(find("[data-set=overlay]"), overlay);
      const { version } = stage.state();
      for (const button of element.querySelectorAll("[data-listen]")) button.setAttribute("aria-pressed", button.dataset.listen === version);
      for (const button of element.querySelectorAll("[data-against]")) button.setAttribute("aria-pressed", Number(button.dataset.against) === against);
      stage.overlay(layer(), COLOUR);
      tell(pinned >= 0 ? pinned : hover);
    }

    function layer() {
      if (overlay === "none") return null;
      const all = new Float32Array(picture().mask.length).fill(NaN), [model] = drawers;
      const worst = [...hidden().map((patch) => model.patch[patch])].sort((one, other) => one - other)[Math.floor(0.95 * (hidden().length - 1))] || 1e-9;
      for (const patch of hidden()) all[patch] = overlay === "mse" ? model.patch[patch] / worst : 0.5 + advantage(drawers[against], patch) / 2;
      return all;
    }

    function tell(patch) {
      const pictures = find(".match-pictures"), title = find(".baselines-title"), { noun } = picture().data;
      if (patch < 0 || !picture().mask[patch]) {
        title.innerHTML = patch < 0 ? `<span>Point at a hidden ${noun} to see how each draws it.</span>` : `${ssast.capital(noun)} ${patch} <span>is visible</span>`;
        pictures.innerHTML = "";
        return;
      }
      title.innerHTML = `${ssast.capital(noun)} ${patch} <span>${ssast.place(picture(), patch)}</span>`;
      const one = (name, words, mse) => `<button type="button" data-patch="${patch}" data-layer-of="${name}" title="Plays it"><canvas></canvas><span><b>${words}</b> ${mse || "&nbsp;"}</span></button>`;
      pictures.innerHTML = `<div>${one("original", "Hidden", "")}${drawers.map(({ version, words, patch: all }) => one(version, words[0], all[patch].toFixed(3))).join("")}</div>`;
      for (const button of pictures.querySelectorAll("button")) ssast.drawPatch(button.querySelector("canvas"), picture(), patch, button.dataset.layerOf);
    }

    // ---- what is touched ----

    function click({ target }) {
      const button = target.closest("button");
      if (!button) return;
      const { listen, patch, layerOf, axis: chosen, choose, against: baseline } = button.dataset;
      if (listen) stage.choose(listen);
      else if (patch) stage.play([Number(patch)], layerOf);
      else if (chosen) axis = chosen;
      else if (choose) overlay = choose;
      else if (baseline) {
        against = Number(baseline);
        overlay = "gain";
      }
      if (chosen) lines();
      redraw();
    }

    element.addEventListener("click", click);
    element.addEventListener("pointermove", (event) => stage.point(event.target.matches("[data-against] canvas") ? ssast.patchUnder(event.target, event) : -1));
    element.addEventListener("pointerleave", () => stage.point(-1));

    return {
      show, later,
      hover: (patch) => ((hover = patch), pinned < 0 && redraw()),
      pin: (patch) => ((pinned = patch), redraw()),
      version: redraw,
    };
  });
})();
