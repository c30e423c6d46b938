// The view of patch against frame: both kinds of model on the same sound. What the other one has drawn is lent to the stage.
(() => {
  const TINTS = { patch: "#0b8ec4", frame: "#e8590c" }, TOP = 4;
  const bars = (kinds) => kinds.map((kind) => `<i class="versus-key" style="background: ${TINTS[kind]}"></i>${kind}`).join(" ");

  const markup = `
    <p class="view-line"></p>
    <div class="versus-sides"></div>
    <div class="versus-below">
      <section class="versus-told"><div class="stage-bar"></div><div class="versus-answers"></div><p class="view-quiet versus-how"></p>
        <div class="versus-own" hidden><label class="view-select">Ask a classifier of yours <select name="classifier"></select></label><div class="versus-answers"></div><p class="view-quiet"></p></div></section>
      <figure class="versus-curve"><h4></h4><svg viewBox="0 0 320 190" role="img" aria-label="being computed"></svg></figure>
      <figure class="versus-reach"><h4>How far attention reaches, by layer</h4><svg viewBox="0 0 320 190" role="img"></svg></figure>
    </div>`;

  // A chart of lines: [{ kind, points: [[x, y], ...] }], both axes from 0.
  function chart(svg, series, across, up, label, ticks) {
    const left = 40, right = 312, top = 8, bottom = 156, x = (value) => left + ((right - left) * value) / across, y = (value) => bottom - ((bottom - top) * value) / up.most;
    svg.setAttribute("aria-label", label);
    svg.innerHTML = `<path class="axis" d="M${left} ${top}V${bottom}H${right}"/>` +
      [0, 0.5, 1].map((part) => `<text x="${left - 5}" y="${y(part * up.most) + 4}" text-anchor="end">${up.say(part * up.most)}</text>`).join("") +
      ticks.map(([at, words]) => `<text x="${x(at)}" y="${bottom + 14}" text-anchor="middle">${words}</text>`).join("") +
      `<text x="${(left + right) / 2}" y="${bottom + 30}" text-anchor="middle">${label}</text>` +
      series.map(({ kind, points }) => {
        const real = points.filter(([, value]) => Number.isFinite(value));
        return `<path d="${real.map(([at, value], place) => `${place ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("")}" style="stroke: ${TINTS[kind]}"/>` +
          real.map(([at, value]) => `<circle cx="${x(at)}" cy="${y(value)}" r="3" style="fill: ${TINTS[kind]}"><title>${kind}: ${up.say(value)}</title></circle>`).join("");
      }).join("");
  }

  ssast.view("versus", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector);
    let data = null, more = null, question = null;

    function show(answer) {
      [data, more] = [answer, null];
      const kinds = Object.keys(data.models), other = kinds.find((kind) => kind !== data.own);
      stage.lend([{ name: "other", words: [`${ssast.capital(other)} model`, `the same sound as the ${other} model has drawn it, from another mask of the same share`], levels: ssast.bytes(data.models[other].levels), sound: null }]);
      if (!data.questions.some(({ name }) => name === question)) question = data.questions[0]?.name ?? null;
      find(".view-line").innerHTML = summary(kinds);
      find(".versus-sides").innerHTML = kinds.map(card).join("");
      kinds.forEach((kind) => drawMask(find(`[data-side=${kind}] canvas`), data.models[kind]));
      const reach = kinds.map((kind) => ({ kind, points: data.models[kind].seconds.map((value, layer) => [layer + 1, value]) }));
      const layers = Math.max(...reach.map(({ points }) => points.length));
      chart(find(".versus-reach svg"), reach, layers, { most: 1.05 * Math.max(...reach.flatMap(({ points }) => points.map(([, value]) => value))), say: (value) => `${value.toFixed(1)} s` }, "layer", [...Array(layers).keys()].filter((at) => at % 2 === 0).map((at) => [at + 1, at + 1]));
      tell();
      own();
      redraw();
    }

    function own() {
      const { classifiers, classifier: asked } = data, { escape } = ssast, line = find(".versus-own > p");
      find(".versus-own").hidden = !classifiers.length;
      find("[name=classifier]").innerHTML = ["", ...classifiers].map((name) => `<option value="${escape(name)}">${escape(name || "none")}</option>`).join("");
      find("[name=classifier]").value = asked?.name ?? "";
      find(".versus-own > .versus-answers").innerHTML = (asked?.labels ?? []).map((label, at) => {
        const whole = asked.whole[at], masked = asked.masked?.[at] ?? null;
        return `<div><b>${escape(label)}</b><div><span class="versus-bar" style="--tint: ${TINTS[data.own]}" title="${ssast.percent(whole)} of the whole sound${masked === null ? "" : `, ${ssast.percent(masked)} of what is left`}">
          <i style="width: ${100 * whole}%"></i>${masked === null ? "" : `<u style="left: ${100 * masked}%"></u>`}</span><output>${ssast.percent(whole)}</output></div></div>`;
      }).join("");
      line.textContent = !asked ? "" : asked.trouble ?? `The most probable of its ${asked.of} labels: bar, from the whole sound${asked.masked ? "; line, from what is not hidden" : ". It cuts sound into other patches, so the mask is not for it"}.`;
    }

    function summary(kinds) {
      const [one, two] = kinds.map((kind) => data.models[kind]), share = ssast.percent(one.hidden / one.patches);
      const gain = ({ mse, baseline_mse }) => 1 - mse / baseline_mse;
      const better = gain(one) > gain(two) ? kinds[0] : kinds[1], surer = one.accuracy > two.accuracy ? kinds[0] : kinds[1];
      return `With ${share} hidden, the <b>${better}</b> model draws more than its baseline can, and the <b>${surer}</b> model recognises more of what was hidden.`;
    }

    function card(kind) {
      const side = data.models[kind], less = 1 - side.mse / side.baseline_mse, here = kind === data.own;
      return `<button type="button" data-side="${kind}" style="--tint: ${TINTS[kind]}" title="See and hear on the stage what the ${kind} model has drawn">
        <h4><i class="versus-key" style="background: ${TINTS[kind]}"></i>${side.label} <span>${here ? "on the stage" : "beside it"}</span></h4>
        <canvas width="${side.columns}" height="${side.rows}"></canvas>
        <dl><div><dt>Recognised</dt><dd>${ssast.percent(side.accuracy)}</dd><dd>guessing ${(100 * side.chance).toFixed(2)} %</dd></div>
        <div><dt>MSE</dt><dd>${side.mse.toFixed(3)}</dd><dd>${ssast.percent(Math.abs(less))} ${less >= 0 ? "below" : "above"} ${side.baseline}</dd></div>
        <div><dt>Hidden</dt><dd>${side.hidden}</dd><dd>of ${side.patches} ${side.plural}</dd></div></dl></button>`;
    }

    function drawMask(canvas, side) {
      const context = canvas.getContext("2d");
      [...ssast.bytes(side.mask)].forEach((hidden, patch) => {
        context.fillStyle = hidden ? "#868e96" : getComputedStyle(canvas).getPropertyValue("--tint") || "#0b8ec4";
        context.fillRect(patch % side.columns, side.rows - 1 - Math.floor(patch / side.columns), 1, 1);
      });
    }

    // ---- what can be told ----

    function tell() {
      const kinds = Object.keys(data.models), asked = data.questions.find(({ name }) => name === question);
      find(".versus-told .stage-bar").innerHTML = data.questions.length
        ? ssast.choice("Question", data.questions.map((one) => [one.name, one.question.replace(/[?]$/, ""), one.question]))
        : `<span class="view-quiet">Both models need linear heads to be asked what this is: those that are built in have them.</span>`;
      if (!asked) return;
      ssast.choose(find(".versus-told .stage-bar"), question);
      const at = (kind, label) => asked.models[kind].labels.indexOf(label);
      const score = (label) => Math.max(...kinds.map((kind) => asked.models[kind].whole[at(kind, label)]));
      const labels = [...asked.labels].sort((one, two) => score(two) - score(one)).slice(0, TOP);
      find(".versus-told > .versus-answers").innerHTML = labels.map((label) => `<div><b>${label}</b><div>${kinds.map((kind) => {
        const whole = asked.models[kind].whole[at(kind, label)], masked = asked.models[kind].masked[at(kind, label)];
        return `<span class="versus-bar" style="--tint: ${TINTS[kind]}" title="${kind}: ${ssast.percent(whole)} of the whole sound, ${Number.isFinite(masked) ? ssast.percent(masked) : "nothing"} of what is left">
          <i style="width: ${100 * whole}%"></i><u style="left: ${100 * (masked || 0)}%"></u></span><output>${ssast.percent(whole)}</output>`;
      }).join("")}</div></div>`).join("");
      find(".versus-how").innerHTML = `${bars(kinds)}: bar, from the whole sound; line, from what is not hidden. Linear heads on frozen models: ` + kinds.map((kind) => {
        const { accuracy, clips, most_frequent: most } = asked.models[kind];
        return accuracy ? `the ${kind} model's is right in ${ssast.percent(accuracy[0])} (${ssast.percent(accuracy[1])} to ${ssast.percent(accuracy[2])}) of ${clips} sounds that it was not fitted to` + (kind === kinds.at(-1) ? `; always naming the most frequent, ${ssast.percent(most)}` : "") : "";
      }).filter(Boolean).join(", ") + ". They know no other answers than these.";
      curve(kinds);
    }

    function curve(kinds) {
      const held = more?.curves[question], title = find(".versus-curve h4");
      title.textContent = held ? "How surely it holds to its first answer" : "How surely it holds to its first answer: being computed…";
      if (!held) return (find(".versus-curve svg").innerHTML = "");
      const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
      const series = kinds.map((kind) => ({ kind, points: held[kind].map((values, at) => [more.shares[at], mean(values)]) }));
      chart(find(".versus-curve svg"), series, 1, { most: 1, say: (value) => `${Math.round(100 * value)} %` }, "share that is hidden", [0, 0.25, 0.5, 0.75, 1].map((at) => [at, `${100 * at} %`]));
    }

    function later(given) {
      if (!given.sound || !data) return;
      more = given;
      const kinds = Object.keys(data.models), other = kinds.find((kind) => kind !== data.own);
      stage.lend([{ name: "other", words: [`${ssast.capital(other)} model`, `the same sound as the ${other} model has drawn it, from another mask of the same share`], levels: ssast.bytes(data.models[other].levels),
        sound: { ...given.sound, samples: new Int16Array(ssast.bytes(given.sound.samples).buffer) } }]);
      curve(kinds);
      redraw();
    }

    function redraw() {
      const { version } = stage.state();
      for (const button of element.querySelectorAll("[data-side]")) button.setAttribute("aria-pressed", version === (button.dataset.side === data.own ? "reconstructed" : "other"));
    }

    find("[name=classifier]").addEventListener("change", ({ target }) => host.ask({ classifier: target.value }));
    element.addEventListener("click", (event) => {
      const side = event.target.closest("[data-side]")?.dataset.side, chosen = event.target.closest("[data-choose]")?.dataset.choose;
      if (side) stage.choose(side === data.own ? "reconstructed" : "other");
      if (chosen) {
        question = chosen;
        tell();
      }
      redraw();
    });

    return { show, later, version: redraw };
  });
})();
