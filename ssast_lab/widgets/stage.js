// A stage in a notebook: the page's own script, spoken with through the widget's messages.
export default {
  render({ model, el }) {
    const part = () => el.appendChild(document.createElement("div")), place = part(), below = part();
    el.classList.add("ssast-widget");
    // Of what has the focus, so that the stage's keys are not JupyterLab's, which cut cells.
    el.addEventListener("focusin", ({ target }) => (target.dataset.lmSuppressShortcuts = "true"));
    const stage = ssast.mount(place, {
      paint: (hidden, stroke) => model.send({ do: "paint", hidden, stroke }),
      hear: () => model.send({ do: "hear" }),
    });
    place.stage = stage;
    let view = null, opened = "";

    function open() {
      const { name = "", hint = "" } = model.get("_view") ?? {};
      if (name === opened) return;
      [opened, view] = [name, null];
      stage.clear();
      below.replaceChildren();
      const ask = (what) => (asked, ticket) => model.send({ do: what, asked, ticket });
      if (name) view = ssast.openView(name, hint, below.appendChild(document.createElement("div")), ask("look"), ask("later"), { own: stage });
    }

    function told(message) {
      if (message.picture) stage.show(message.picture);
      if (message.sounds) stage.hear(message.sounds);
      if (message.answer) view?.answer(message.answer);
    }

    function keep(trait, value) {
      if (model.get(trait) === value) return;
      model.set(trait, value);
      model.save_changes();
    }

    const pinned = () => stage.state().pinned !== model.get("pinned") && stage.pin(model.get("pinned"));
    const layer = () => stage.state().layer !== model.get("layer") && stage.see(model.get("layer"));
    const life = new AbortController(), listen = (what, act) => stage.element.addEventListener(`ssast:${what}`, act, { signal: life.signal });
    listen("pin", ({ detail }) => keep("pinned", detail.patch));
    listen("layer", ({ detail }) => keep("layer", detail.layer));
    // After a click beside the handle of a slider the cell would have the focus, and the arrow keys would not move what was just moved.
    const focus = ({ target }) => {
      const slider = target.closest?.(".widget-slider");
      if (slider?.closest(".widget-vbox")?.contains(el)) setTimeout(() => slider.querySelector(".noUi-handle").focus({ preventScroll: true }));
    };
    document.addEventListener("pointerup", focus, { capture: true, signal: life.signal });
    const listened = { "msg:custom": told, "change:pinned": pinned, "change:layer": layer, "change:_view": open };
    for (const [event, act] of Object.entries(listened)) model.on(event, act);
    open();
    stage.see(model.get("layer"));
    model.send({ do: "show" });
    return () => {
      life.abort();
      for (const [event, act] of Object.entries(listened)) model.off(event, act);
    };
  },
};
