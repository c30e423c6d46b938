// The view of training: a run of the visitor's own, which goes on while nobody looks. Its name, which nobody else can guess, is drawn and
// kept here.
(() => {
  const SLOT = "ssast-lab-training", EVERY = 1500; // milliseconds between two looks at a run
  const COLOURS = { training: "#868e96", held: "var(--stage-on)", reference: "#e8590c" };
  const MEASURED = [["nce", "InfoNCE", "nats"], ["mse", "MSE", ""], ["accuracy", "Accuracy", ""], ["loss", "Loss", ""]];
  const FINDINGS = { diverging: "is-bad", flat: "is-even", "at chance": "is-even", memorising: "is-even", learning: "is-good", starting: "" };

  const markup = `
    <div class="train-form">
      <label class="view-select">Model <select name="kind"><option value="patch">nano, patches, 16 kHz</option><option value="frame">nano, frames, 16 kHz</option></select></label>
      <label class="view-select">Steps <select name="steps"></select></label>
      <label class="view-select">Sounds <select name="source"><option value="">the built-in ones</option><option value="own">my own files</option></select></label>
      <input type="file" multiple accept="audio/*,video/*,.zip,.wav,.wave,.rf64,.w64,.flac,.aif,.aiff,.aifc,.au,.snd,.caf,.sph,.nist,.voc,.paf,.svx,.8svx,.avr,.ircam,.sf,.tta,.wv,.ogg,.oga,.ogv,.opus,.spx,.mp2,.mp3,.mpga,.aac,.adts,.ac3,.eac3,.amr,.awb,.wma,.asf,.wmv,.ra,.rm,.m4a,.m4b,.m4r,.m4v,.mp4,.mov,.3gp,.3g2,.f4a,.f4v,.webm,.weba,.mka,.mkv,.avi,.flv,.mpg,.mpeg,.vob,.ts,.mts,.m2ts" aria-label="Sounds to learn from" hidden>
      <button type="button" data-do="start" class="train-main">Train</button>
      <span class="view-quiet train-sent"></span>
    </div>
    <p class="view-refused train-trouble" role="alert"></p>
    <div class="train-run">
      <div class="stage-bar">
        <progress max="1" value="0" aria-label="Steps done"></progress><span class="train-said"></span>
        <button type="button" data-do="stop">Stop</button><button type="button" data-do="go on">Go on</button>
        <button type="button" data-do="use" title="The stage and all views use the best checkpoint so far">Use it in the other views</button>
        <button type="button" data-do="keep" title="The best checkpoint so far as a zip: the app reads it from a folder given with --models">Keep a copy</button>
        <button type="button" data-do="anew">Train another</button>
      </div>
      <p class="view-line train-diagnosis"></p>
      <div class="train-charts"></div>
      <section class="train-sample"><h4></h4><div>
        <figure><canvas data-layer="original"></canvas><figcaption><button type="button" data-play="original">Play</button> held-out sound, through its log-mel</figcaption></figure>
        <figure><canvas data-layer="masked"></canvas><figcaption>what the model is given</figcaption></figure>
        <figure><canvas data-layer="reconstructed"></canvas><figcaption><button type="button" data-play="reconstructed">Play</button> <span class="train-drawn"></span></figcaption></figure>
      </div></section>
      <details class="train-command"><summary>The same from the command line</summary><code></code></details>
    </div>`;

  const drawn = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  function duration(seconds) {
    if (seconds < 90) return `${Math.max(Math.round(seconds), 1)} s`;
    return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  ssast.view("train", (element, host) => {
    element.innerHTML = markup;
    const find = (selector) => element.querySelector(selector), player = ssast.player(() => {});
    let data = null, name = localStorage.getItem(SLOT), timer = 0, heard = null, wanted = null, files = [], sending = false;

    const ask = (more = {}) => host.ask({ training: name, ...more });

    function show(answer) {
      const first = !data;
      data = answer;
      clearTimeout(timer);
      if (first) {
        find("[name=steps]").innerHTML = data.choices.steps.map((steps) => `<option${steps === 300 ? " selected" : ""}>${steps}</option>`).join("");
        if (name && data.state === "none") return ask(); // is there one from before?
      }
      if (data.sounds) listen(data.sounds);
      if (data.kept) keep(data.kept);
      redraw();
      if (data.state === "running") timer = setTimeout(() => ask(), EVERY);
    }

    // ---- what is seen ----

    function redraw() {
      const { state } = data, there = state !== "none";
      find(".train-form").hidden = there;
      find(".train-run").hidden = !there;
      find(".train-trouble").textContent = data.trouble ?? "";
      find(".train-trouble").hidden = !data.trouble;
      find(".train-form input").hidden = find("[name=source]").value !== "own";
      find("[data-do=start]").disabled = sending;
      if (!there) return;
      for (const [act, when] of Object.entries({ stop: state === "running", "go on": ["stopped", "failed"].includes(state), anew: state !== "running", use: data.step > 0, keep: data.step > 0 }))
        find(`[data-do="${act}"]`).hidden = !when;
      find("progress").value = data.step / data.steps;
      const words = { running: data.seconds_left === null ? "it begins…" : `about ${duration(data.seconds_left)} left`, stopped: "stopped", done: "done", failed: "ended by an error" };
      find(".train-said").textContent = `step ${data.step} of ${data.steps}, on ${data.source}: ${words[state]}`;
      find(".train-diagnosis").className = `view-line train-diagnosis ${FINDINGS[data.diagnosis.finding]}`;
      find(".train-diagnosis").textContent = data.diagnosis.sentence;
      find(".train-command code").textContent = data.command;
      charts();
      sample();
    }

    function charts() {
      const box = find(".train-charts"), { curves, held_out: held, masked, steps } = data;
      const known = data.builtin ? data.reference[`${data.kind} 300`] : null, guess = { nce: Math.log(masked), accuracy: 1 / masked };
      while (box.children.length < MEASURED.length) box.append(document.createElement("figure"));
      MEASURED.forEach(([key, title, unit], at) => {
        const line = (label, colour, of, more) => ({ name: label, colour, points: of.step.map((step, i) => [step, of[key][i]]), ...more });
        const lines = [line("training", COLOURS.training, curves, { quiet: true })];
        if (known) lines.push({ ...line("reference", COLOURS.reference, known), dashed: true, points: known.step.flatMap((step, i) => (step <= steps ? [[step, known[key][i]]] : [])) });
        if (key in guess) lines.push({ name: "guessing", colour: "#adb5bd", dashed: true, points: [[0, guess[key]], [steps, guess[key]]] });
        lines.push(line("held out", COLOURS.held, held, { dots: held.step.length < 30 }));
        ssast.chart(box.children[at], { title, unit, lines, zero: key === "accuracy" || key === "mse", percent: key === "accuracy", height: 160, x: { label: "step", from: 0, to: steps, write: (step) => String(Math.round(step)) } });
      });
    }

    function sample() {
      const { sample: one } = data, section = find(".train-sample");
      section.hidden = !one;
      if (!one) return;
      find(".train-sample h4").innerHTML = `A sound that it does not learn from <span>after ${one.step} steps</span>`;
      find(".train-drawn").textContent = `with what it drew: MSE ${one.mse.toFixed(3)}`;
      const palette = ssast.bytes(host.stage.state().picture.data.colours.loudness), mask = ssast.bytes(one.mask);
      for (const canvas of element.querySelectorAll("canvas")) {
        const { layer } = canvas.dataset, levels = ssast.bytes(one[layer === "masked" ? "original" : layer]), { frames, bins, columns, shape } = one;
        Object.assign(canvas, { width: frames, height: bins });
        const image = new ImageData(frames, bins);
        for (let frame = 0; frame < frames; frame++) for (let bin = 0; bin < bins; bin++) {
          const at = 4 * ((bins - 1 - bin) * frames + frame), level = 3 * levels[frame * bins + bin];
          const hidden = layer === "masked" && mask[Math.floor(bin / shape[0]) * columns + Math.floor(frame / shape[1])];
          image.data.set(hidden ? [138, 144, 153, 255] : [palette[level], palette[level + 1], palette[level + 2], 255], at);
        }
        canvas.getContext("2d").putImageData(image, 0, 0);
      }
    }

    // ---- what is heard and kept ----

    function play(which) {
      wanted = which;
      if (heard !== data.sample.step) ask({ hear: true });
      else {
        player.stop();
        player.choose(which);
        player.seek(0);
        player.play();
        element.dataset.playing = which;
      }
    }

    function listen(sounds) {
      heard = sounds.step;
      const { original, reconstructed } = sounds, scale = Math.max(original.scale, reconstructed.scale); // one gain for both
      const even = ({ samples, scale: own }) => Int16Array.from(new Int16Array(ssast.bytes(samples).buffer), (value) => (value * own) / scale);
      player.load({ original: even(original), reconstructed: even(reconstructed) }, 16000, scale);
      if (wanted && heard === data.sample?.step) play(wanted);
    }

    function keep({ name: title, zip, trouble }) {
      if (trouble) return (find(".train-said").textContent = trouble);
      const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([ssast.bytes(zip)])), download: title });
      link.click();
      URL.revokeObjectURL(link.href);
    }

    // ---- what is touched ----

    async function start() {
      const own = find("[name=source]").value === "own", sent = [];
      sending = true;
      redraw();
      try {
        for (const file of own ? files : []) {
          find(".train-sent").textContent = `sending ${file.name}…`;
          const { path } = await host.upload(file);
          sent.push({ path, name: file.name });
        }
      } catch {
        find(".train-sent").textContent = "The sounds could not be sent: choose smaller or fewer files.";
        return;
      } finally {
        sending = false;
        redraw();
      }
      if (own && !sent.length) return (find(".train-sent").textContent = "Choose some files first.");
      find(".train-sent").textContent = "";
      name = drawn();
      localStorage.setItem(SLOT, name);
      ask({ do: "start", kind: find("[name=kind]").value, steps: Number(find("[name=steps]").value), files: own ? sent : null });
    }

    element.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      const { do: act, play: which } = button.dataset;
      if (which) play(which);
      else if (act === "start") start();
      else if (act === "use") host.act({ training: name });
      else if (act === "keep") ask({ keep: true });
      else if (act === "anew") {
        data = { ...data, state: "none", trouble: "" };
        redraw();
      } else if (act) ask({ do: act });
    });
    element.addEventListener("change", ({ target }) => {
      if (target.type === "file") files = [...target.files];
      redraw();
    });
    new ResizeObserver(() => data && data.state !== "none" && element.clientWidth && charts()).observe(element);

    return {
      show,
      close: () => {
        clearTimeout(timer);
        player.stop();
      },
    };
  });
})();
