// The page's address says which built-in sound, model and mask are shown, so that it shows them again elsewhere.
(() => {
  const asked = location.search; // before anything writes it
  const KEYS = ["sound", "model", "hidden", "cluster", "seed"];

  // Values in the order of the keys; those that are none, such as the name of a visitor's own sound, are left out.
  function writeAddress(values) {
    const address = new URL(location.href);
    KEYS.forEach((key, place) => {
      if (values[place] === null || values[place] === undefined) address.searchParams.delete(key);
      else address.searchParams.set(key, values[place]);
    });
    history.replaceState(history.state, "", address);
  }

  globalThis.ssast = Object.assign(globalThis.ssast ?? {}, { askedFor: () => [asked], writeAddress });
})();
