"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const names = { fixed: "fixed", before: "before", after: "warped" };
  const mix = document.getElementById("mix");
  const show = () => viewer.style.setProperty("--mix", mix.value / 100);
  mix.addEventListener("input", show);
  show();

  const label = () => {
    const board = viewer.dataset.mode === "board";
    document.getElementById("mix-from").textContent = board ? "small" : names[viewer.dataset.bottom];
    document.getElementById("mix-to").textContent = board ? "large" : names[viewer.dataset.top];
    mix.disabled = viewer.dataset.mode === "side";
  };
  for (const input of viewer.querySelectorAll("input[name=pair]")) {
    input.addEventListener("change", () => {
      [viewer.dataset.bottom, viewer.dataset.top] = input.value.split(" ");
      label();
    });
  }
  for (const input of viewer.querySelectorAll("input[name=mode]")) {
    input.addEventListener("change", () => { viewer.dataset.mode = input.value; label(); measure(); });
  }
  const contours = document.getElementById("contours");
  contours.addEventListener("change", () => { viewer.dataset.contours = contours.checked ? "on" : "off"; });

  // in the checkerboard the slider is the size of the squares
  const measure = () => {
    for (const stage of viewer.querySelectorAll(".stage")) {
      const share = 0.04 + 0.42 * (mix.value / 100) ** 2;
      stage.style.setProperty("--board", `${Math.round(2 * share * stage.clientWidth)}px`);
    }
  };
  mix.addEventListener("input", measure);
  addEventListener("resize", measure);
  measure();

  for (const view of viewer.querySelectorAll(".view")) {
    const slider = view.querySelector(".slice");
    if (!slider) continue;
    const places = JSON.parse(view.dataset.places);
    const move = () => {
      view.style.setProperty("--k", slider.value);
      view.querySelector("output").textContent = `${places[slider.value]} mm`;
      for (const use of view.querySelectorAll("use")) use.setAttribute("href", `#${view.dataset.plane}-${slider.value}`);
    };
    slider.addEventListener("input", move);
    move();
  }

  const flicker = document.getElementById("flicker");
  let timer = null;
  flicker.addEventListener("click", () => {
    flicker.setAttribute("aria-pressed", String(timer === null));
    if (timer !== null) { clearInterval(timer); timer = null; return; }
    viewer.querySelector("input[value=blend]").click();
    timer = setInterval(() => { mix.value = mix.value > 50 ? 0 : 100; mix.dispatchEvent(new Event("input")); }, 600);
  });
})();
