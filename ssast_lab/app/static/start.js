// Start here: four steps on the sound that is shown. Each says what to do on the stage, and shows it there.
(() => {
  const COLOUR = "#ffd43b", LOOKS = "#4df0d8";
  const markup = `
    <div class="start-steps"><ol class="start-dots" aria-label="Steps"></ol>
      <div class="start-go"><button type="button" data-go="-1">Back</button><button type="button" data-go="1" class="start-next">Next</button></div></div>
    <div class="start-step" aria-live="polite"><h4></h4><p></p><div class="start-try"></div></div>`;

  ssast.view("start", (element, host) => {
    element.innerHTML = markup;
    const { stage } = host, find = (selector) => element.querySelector(selector), picture = () => stage.state().picture;
    let data = null, step = 0, guess = null;

    const noun = (many) => picture().data[many === 1 ? "noun" : "plural"];
    const play = (version, words) => `<button type="button" data-play="${version}">${words}</button>`;
    const tab = (name, words) => `<button type="button" data-tab="${name}">${words}</button>`;
    const where = () => ssast.place(picture(), data.patch);

    const STEPS = [
      {
        title: "Cut the sound into patches",
        say: () => `This is the sound as a picture: time runs to the right, pitch upwards, bright is loud. It is cut into <b>${data.patches} ${noun(2)}</b>, each ${(1000 * picture().grid.shape[1] * picture().data.hop).toFixed(0)} ms long
          and ${picture().grid.rows > 1 ? `${picture().grid.shape[0]} of ${picture().grid.bins} bands of pitch high` : "as high as the picture"}. Point at one: its place, pitch and level stand under the picture.`,
        offer: () => play("original", "Play the sound") + `<button type="button" data-patch>Play one ${noun(1)}</button>`,
        stage: () => {
          stage.choose("original");
          stage.mark([data.patch], COLOUR);
        },
      },
      {
        title: "Hide most of them",
        say: () => `<b>${data.hidden} of ${data.patches} ${noun(2)}</b> are hidden now (${ssast.percent(data.hidden / data.patches)}). The model is given the rest and nothing else: no label, no name of the sound.
          Listen to what is left. Could you say what is missing? On the left you can hide more or fewer, or paint over ${noun(2)} with <i>Hide</i>.`,
        offer: () => play("masked", "Play what is left") + play("original", "Play the sound"),
        stage: () => stage.choose("masked"),
      },
      {
        title: "See what a hidden patch looks at",
        say: () => `Take the framed ${noun(1)} at ${where()}. The model knows where it lies, but not what is in it, so it looks around: brighter ${noun(2)} are those that it attends to most in the last layer.
          Mostly these are ${picture().grid.rows > 1 ? "neighbours in time and in pitch, and places where the sound repeats itself" : "the frames before and after, and places where the sound repeats itself"}.`,
        offer: () => tab("Attention", "Every layer and head"),
        stage: () => {
          stage.choose("masked");
          stage.mark([data.patch], COLOUR);
          stage.overlay(new Float32Array(ssast.bytes(data.attention).buffer), LOOKS);
        },
      },
      {
        title: "Pick it out, and draw it",
        say: () => `From this the model learns two things at once. <b>Pick</b>: which of all ${data.hidden} hidden ${noun(2)} belongs at ${where()}? Try it yourself with the ${data.candidates.length} that the model finds likeliest.`,
        offer: () => `<div class="start-candidates">${data.candidates.map((patch) => `<button type="button" data-guess="${patch}" aria-label="Candidate ${patch}"><canvas></canvas></button>`).join("")}</div>
          <p class="start-verdict">${verdict()}</p>
          <p><b>Draw</b>: fill in what was there. Its picture is off by an MSE of ${data.mse.toFixed(3)}; the best that needs no model (${data.baseline}) by ${data.baseline_mse.toFixed(3)}.</p>
          ${play("reconstructed", "Play what it drew")}${play("masked", "Play what it was given")}
          <p class="start-on">Go on: ${tab("Recognition", "what is recognised")}${tab("Reconstruction", "what is drawn")}${tab("Patches and masks", "how patches are hidden")}</p>`,
        stage: () => {
          stage.choose("reconstructed");
          stage.mark([data.patch], COLOUR);
          for (const button of element.querySelectorAll("[data-guess]")) ssast.drawPatch(button.querySelector("canvas"), picture(), Number(button.dataset.guess));
        },
      },
    ];

    function verdict() {
      if (guess === null) return "Which one is it?";
      const model = data.choice === data.patch ? "The model picks the right one, too" : "The model takes it for another one";
      return `${guess === data.patch ? "Right." : "No: the right one is framed in green."} ${data.choice !== data.patch || guess === data.patch ? model : "The model picks the right one"}. Of all ${data.hidden} it recognises ${ssast.percent(data.accuracy)}; guessing would ${(100 * data.chance).toFixed(2)} %.`;
    }

    function show(answer) {
      [data, guess] = [answer, null];
      draw();
    }

    function draw() {
      const { title, say, offer } = STEPS[step];
      find(".start-dots").innerHTML = STEPS.map((one, at) => `<li><button type="button" data-step="${at}" ${at === step ? 'aria-current="step"' : ""}>${at + 1}. ${one.title}</button></li>`).join("");
      find("h4").textContent = title;
      find(".start-step > p").innerHTML = say();
      find(".start-try").innerHTML = offer();
      find("[data-go='-1']").disabled = step === 0;
      find("[data-go='1']").disabled = step === STEPS.length - 1;
      stage.mark([], COLOUR);
      stage.overlay(null);
      STEPS[step].stage();
      judge();
    }

    function judge() {
      for (const button of element.querySelectorAll("[data-guess]")) {
        const patch = Number(button.dataset.guess);
        button.classList.toggle("is-right", guess !== null && patch === data.patch);
        button.classList.toggle("is-wrong", guess === patch && patch !== data.patch);
      }
    }

    element.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button || !data) return;
      const { go, step: to, play: version, guess: patch, tab: name } = button.dataset;
      if (go || to) {
        step = to ? Number(to) : step + Number(go);
        draw();
        if (go && find(`[data-go='${go}']`).disabled) find(`[data-step='${step}']`).focus();
      } else if (version) stage.playWhole(version);
      else if ("patch" in button.dataset) stage.play([data.patch], "original");
      else if (patch) {
        guess = Number(patch);
        find(".start-verdict").textContent = verdict();
        judge();
      } else if (name) [...document.querySelectorAll("#views :is([role=tab], .overflow-dropdown button)")].find((one) => one.textContent.trim() === name)?.click();
    });

    return { show, close: () => stage.choose("reconstructed") };
  });
})();
