// The view of how much can be hidden: curves that grow point by point, each asked for when the one before is there.
(() => {
  const COLOUR = "var(--stage-on)", QUIET = "#868e96";

  const markup = `
    <div class="stage-bar">
      <span class="view-select">Masks for each number <span class="hiding-seeds"></span></span>
      <button type="button" class="hiding-go"></button>
      <progress class="hiding-progress" max="1" value="0" aria-label="Measured"></progress>
      <span class="view-quiet hiding-said"></span>
    </div>
    <p class="view-line"></p>
    <div class="hiding-charts"><figure data-of="mse"></figure><figure data-of="accuracy"></figure><figure data-of="nce"></figure>
      <div class="hiding-class"><label class="view-select">What can be told <select name="question" aria-label="Question"></select></label><figure data-of="class"></figure></div></div>
    <div class="view-chips hiding-masks" role="group" aria-label="Masks"></div>`;

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  // The ends first, then what lies between, always in the middle of the widest gap.
  function order(counts) {
    const found = [0, counts.length - 1], rest = new Set(counts.keys());
    found.forEach((at) => rest.delete(at));
    while (rest.size) {
      const far = (at) => Math.min(...found.map((other) => Math.abs(at - other)));
      const next = [...rest].reduce((best, at) => (far(at) > far(best) ? at : best));
      found.push(next);
      rest.delete(next);
    }
    return [...new Set(found)].map((at) => counts[at]);
  }

  ssast.view("hiding", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    let data = null, key = "", points = new Map(), seeds = 5, going = true, chosen = null, question = ""; // chosen: [count, seed]

    const left = () => order(data.counts).filter((count) => !points.has(count));

    function show(answer) {
      data = answer;
      const now = JSON.stringify([answer.of, picture().data.stretch]);
      if (now !== key) [key, points, chosen, seeds] = [now, new Map(), null, answer.seeds]; // another sound, model or kind of mask
      if (answer.point) points.set(answer.point.count, answer.point);
      redraw();
      next();
    }

    function next() {
      const [count] = left();
      if (going && count !== undefined) host.ask({ count, seeds });
    }

    // ---- what is seen ----

    function redraw() {
      const total = data.counts.length, rest = left().length, { plural } = picture().data;
      find(".hiding-seeds").innerHTML = ssast.choice("Masks for each number", data.choices.map((many) => [many, many]));
      ssast.choose(find(".hiding-seeds"), seeds);
      find(".hiding-go").hidden = !rest;
      find(".hiding-go").textContent = going ? "Stop" : "Go on";
      find("progress").hidden = !rest;
      find("progress").value = 1 - rest / total;
      find(".hiding-said").textContent = rest ? `${total - rest} of ${total} numbers of hidden ${plural}` : `masks: ${data.kind}`;
      find(".view-line").textContent = said();
      questions();
      curves();
      masks();
    }

    function questions() {
      const names = Object.keys(data.classes), select = find("[name=question]");
      find(".hiding-class").hidden = !names.length;
      if (!names.includes(question)) question = names[0] ?? "";
      select.innerHTML = names.map((name) => `<option value="${name}">${ssast.escape(data.classes[name].question)}</option>`).join("");
      select.value = question;
    }

    // How far one can go until the model is no better than a baseline, in words.
    function said() {
      const known = [...points.values()].sort((one, other) => one.count - other.count), all = picture().mask.length;
      if (known.length < 3) return "";
      const better = known.filter((point) => mean(point.mse) < mean(point.baseline)), last = better.at(-1);
      const share = (point) => `${ssast.percent(point.count / all)} (${point.count})`;
      if (!last) return "However little is hidden, the visible mean of each mel bin is a better guess than what the model draws.";
      const most = known.filter(({ count }) => count > 1).reduce((best, point) => (mean(point.accuracy) * point.count > mean(best.accuracy) * best.count ? point : best), known.at(-1));
      const drawing = last === known.at(-1) ? `It draws better than the visible mean of each mel bin up to ${share(last)} hidden.` : `It draws better than the visible mean of each mel bin until about ${share(last)} is hidden.`;
      return `${drawing} With ${share(most)} hidden it recognises ${ssast.percent(mean(most.accuracy))}, ${(mean(most.accuracy) * most.count).toFixed(0)} times as many as guessing would.`;
    }

    function line(name, colour, of, more = {}) {
      const rows = [...points.values()].sort((one, other) => one.count - other.count);
      return { name, colour, ...more, points: rows.map((point) => [point.count, mean(of(point)), Math.min(...of(point)), Math.max(...of(point))]) };
    }

    function curves() {
      const all = picture().mask.length, { plural } = picture().data;
      const x = { label: `hidden ${plural}, of ${all}`, from: 0, to: all, write: (count) => String(Math.round(count)) };
      const guess = (of) => ({ name: "guessing", colour: QUIET, dashed: true, points: data.counts.map((count) => [count, of(count)]) });
      const charts = {
        mse: { title: "MSE", zero: true, lines: [line("visible mean", QUIET, ({ baseline }) => baseline, { dashed: true }), line("model", COLOUR, ({ mse }) => mse, { dots: true })] },
        accuracy: { title: "Accuracy", zero: true, percent: true, top: 1.02, lines: [guess((count) => 1 / count), line("model", COLOUR, ({ accuracy }) => accuracy, { dots: true })] },
        nce: { title: "InfoNCE", unit: "nats", zero: true, lines: [guess((count) => Math.log(count)), line("model", COLOUR, ({ nce }) => nce, { dots: true })] },
      };
      const told = data.classes[question];
      if (told) {
        const whole = { name: "nothing hidden", colour: QUIET, dashed: true, points: data.counts.map((count) => [count, told.probability]) };
        charts.class = { title: `Probability of “${told.label}”`, zero: true, percent: true, top: 1.02, lines: [whole, line("model", COLOUR, ({ held }) => held[question] ?? [NaN], { dots: true })] };
      }
      for (const [name, spec] of Object.entries(charts)) ssast.chart(find(`[data-of=${name}]`), { ...spec, x, mark: picture().hiddenCount(), click: pick });
    }

    function masks() {
      const point = points.get(chosen?.[0]);
      find(".hiding-masks").innerHTML = point ? `<span>${point.count} hidden by</span>` + point.mse.map((mse, seed) =>
        `<button type="button" data-seed="${seed}" aria-pressed="${seed === chosen[1]}"><b>mask ${seed}</b><i>MSE ${mse.toFixed(3)}</i><i>${ssast.percent(point.accuracy[seed])} recognised</i></button>`).join("")
        : "<span>Click a point: its mask is put on the stage, to be seen and heard.</span>";
    }

    // ---- what is touched ----

    // The mask whose MSE is in the middle stands for its number.
    function pick(count) {
      const measured = [...points.keys()];
      if (!measured.length) return;
      const nearest = measured.reduce((best, one) => (Math.abs(one - count) < Math.abs(best - count) ? one : best)), { mse } = points.get(nearest);
      const middle = [...mse.keys()].sort((one, other) => mse[one] - mse[other])[Math.floor((mse.length - 1) / 2)];
      lay(nearest, middle);
    }

    function lay(count, seed) {
      chosen = [count, seed];
      const all = ssast.bytes(points.get(count).masks), size = picture().mask.length;
      stage.paint(all.subarray(seed * size, (seed + 1) * size));
      redraw();
    }

    element.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      const { seed, choose } = button.dataset;
      if (seed) lay(chosen[0], Number(seed));
      else if (choose) {
        [seeds, going] = [Number(choose), true];
        host.ask({ seeds });
      } else {
        going = !going;
        redraw();
        next();
      }
    });
    find("[name=question]").addEventListener("change", ({ target }) => {
      question = target.value;
      redraw();
    });
    new ResizeObserver(() => data && element.clientWidth && curves()).observe(element);

    return { show };
  });
})();
