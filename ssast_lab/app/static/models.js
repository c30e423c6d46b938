// The view of models: what is loaded, what else is on the shelf, how it was read, and its layers.
(() => {
  const MEASURED = [["nce", "InfoNCE", "nats"], ["mse", "MSE", ""], ["accuracy", "Accuracy", ""]];
  const FIGURES = ["Log-mel, mean", "Log-mel, deviation", "Tokens, mean", "Tokens, deviation", "Largest attention, mean"];
  const PARTS = [["taken", "taken"], ["left", "left in the file"], ["missing", "missing"]];
  const COLOUR = "var(--stage-on)";

  const markup = `
    <div class="models-columns">
      <nav class="models-shelf" aria-label="Models"></nav>
      <div class="models-one">
        <div class="stage-bar"><h3></h3><button type="button" class="models-use">Use it on the stage</button><span class="view-quiet models-why"></span></div>
        <p class="view-refused models-trouble" role="alert"></p>
        <div class="models-known">
          <div class="models-top"><dl class="models-facts"></dl><section class="models-fingerprint"></section></div>
          <div class="models-curves"></div>
          <section class="models-report"><h4></h4><div class="stage-choice" role="group" aria-label="Weights"></div><div class="models-table" tabindex="0"><table></table></div></section>
          <section><h4>Layers <span>unfold one to see what is in it, with shapes and numbers of weights</span></h4><div class="models-tree"></div></section>
          <section class="models-recipe"><h4>Recipe</h4><dl></dl></section>
        </div>
      </div>
    </div>`;

  ssast.view("models", (element, host) => {
    element.innerHTML = markup;
    const find = (selector) => element.querySelector(selector), { escape } = ssast;
    let data = null, part = "taken";

    const times = (shape) => shape.join(" × ") || "one number";
    const pairs = (list) => list.map(([name, value]) => `<dt>${escape(name)}</dt><dd>${escape(value)}</dd>`).join("");

    function show(answer) {
      const before = data;
      data = answer;
      if (before && before.in_use !== data.in_use && data.name !== data.in_use) return host.ask({}); // another is on the stage now
      if (data.name !== before?.name) part = "taken";
      const { trouble } = data;
      find(".models-shelf").innerHTML = data.entries.map((name) => `<button type="button" data-name="${escape(name)}" aria-pressed="${name === data.name}">
        ${escape(name)}${name === data.in_use ? " <b>in use</b>" : ""}</button>`).join("");
      find("h3").textContent = data.name ?? data.label;
      find(".models-trouble").textContent = trouble ?? "";
      for (const gone of [".models-trouble", ".models-known"]) find(gone).hidden = gone === ".models-trouble" ? !trouble : Boolean(trouble);
      const used = data.name === data.in_use;
      find(".models-use").hidden = Boolean(trouble) || used || !data.usable;
      find(".models-why").textContent = trouble ? "" : used ? "on the stage now" : data.usable ? "" : data.why_not;
      if (!trouble) describe();
    }

    function describe() {
      find(".models-facts").innerHTML = pairs(data.facts);
      find(".models-recipe").hidden = !data.recipe.length;
      find(".models-recipe dl").innerHTML = pairs(data.recipe);
      find(".models-tree").innerHTML = branch(data.tree, true);
      fingerprint();
      curves();
      report();
    }

    function fingerprint() {
      const { fingerprint: mark } = data, section = find(".models-fingerprint");
      section.hidden = !mark;
      if (!mark) return;
      const verdict = mark.agrees === null ? "Its file promises no figures to compare with."
        : mark.agrees ? '<b class="is-right">As its file promises.</b>' : '<b class="is-wrong">Not as its file promises: it was read or computed in another way.</b>';
      section.innerHTML = `<h4>Fingerprint <span>of the built-in sound “${escape(mark.sound)}”, as this model sees it</span></h4>
        <table><tr><th></th><th>here</th><th>expected</th></tr>${FIGURES.map((name, at) =>
        `<tr><td>${name}</td><td>${mark.found[at].toFixed(4)}</td><td>${mark.expected ? mark.expected[at].toFixed(4) : "–"}</td></tr>`).join("")}</table><p>${verdict}</p>`;
    }

    function curves() {
      const box = find(".models-curves"), { curves: steps } = data;
      box.innerHTML = "";
      for (const [key, title, unit] of MEASURED) {
        const points = steps.filter((step) => key in step).map((step) => [step.step, step[key]]);
        if (points.length < 2) continue;
        const guess = steps.filter(({ masked }) => masked).map(({ step, masked }) => [step, { nce: Math.log(masked), accuracy: 1 / masked }[key]]);
        const lines = [{ name: "held out", colour: COLOUR, points, dots: points.length < 30 }];
        if (guess.length && key !== "mse") lines.push({ name: "guessing", colour: "#868e96", points: guess, dashed: true });
        const place = box.appendChild(Object.assign(document.createElement("figure"), {}));
        ssast.chart(place, { title, unit, x: { label: "step" }, zero: key !== "nce", percent: key === "accuracy", lines, height: 170 });
      }
    }

    function report() {
      const { report: said } = data, list = said[part];
      find(".models-report h4").innerHTML = `What was read <span>in ${escape(said.format)} layout</span>`;
      find(".models-report .stage-choice").innerHTML = PARTS.map(([key, title]) =>
        `<button type="button" data-part="${key}" aria-pressed="${key === part}">${said[key].length} ${title}</button>`).join("");
      find(".models-report table").innerHTML = list.length
        ? `<tr><th>Weight</th><th>Shape</th><th>${part === "taken" ? "In the file" : "Why"}</th></tr>${list.map(([name, shape, note]) => `<tr><td>${escape(name)}</td><td>${times(shape)}</td><td>${escape(note)}</td></tr>`).join("")}`
        : `<tr><td>Nothing ${part === "left" ? "was left in the file" : `is ${part}`}.</td></tr>`;
    }

    function branch({ name, kind, weights, count, parts }, open = false) {
      const title = `${name ? `<b>${escape(name)}</b> ` : ""}${escape(kind)} <i>${count.toLocaleString("en")}</i>`;
      const leaves = weights.map(([part, shape]) => `<li>${escape(part)} <i>${times(shape)}</i></li>`).join("");
      return `<details${open ? " open" : ""}><summary>${title}</summary>${leaves ? `<ul>${leaves}</ul>` : ""}${parts.map((child) => branch(child)).join("")}</details>`;
    }

    element.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      if (button.dataset.name) host.ask({ name: button.dataset.name });
      else if (button.dataset.part) {
        part = button.dataset.part;
        report();
      } else if (button.matches(".models-use")) host.act({ name: data.name });
    });

    return { show };
  });
})();
