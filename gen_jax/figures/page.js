"use strict";

// Animations: one sheet of frames, drawn frame by frame; or the frames of a plot, of which one is seen.
const animate = (player, labels, draw) => {
  const controls = player.querySelector(".controls");
  const [button, slider, label] = ["button", "input", "output"].map((name) => controls.querySelector(name));
  const last = labels.length - 1;
  const pause = Math.max(60, 4000 / labels.length);  // ms a frame: the whole takes about four seconds
  let timer = 0;

  const show = (frame) => {
    draw(frame);
    slider.value = frame;
    slider.setAttribute("aria-valuetext", labels[frame]);
    label.textContent = labels[frame];
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    button.textContent = "Play";
  };
  const play = () => {
    if (Number(slider.value) === last) show(0);
    button.textContent = "Pause";
    timer = setInterval(() => {
      show(Number(slider.value) + 1);
      if (Number(slider.value) === last) stop();
    }, pause);
  };
  const toggle = () => (timer ? stop() : play());

  show(last);
  controls.hidden = false;
  button.addEventListener("click", toggle);
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  slider.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
};
for (const player of document.querySelectorAll(".player[data-sheet]")) {
  const { columns, width, height, labels } = JSON.parse(player.dataset.sheet);
  const [sheet, canvas] = ["img", "canvas"].map((name) => player.querySelector(name));
  const context = canvas.getContext("2d");
  sheet.decode().then(() => {
    animate(player, labels, (frame) => {
      const x = (frame % columns) * width;
      const y = Math.floor(frame / columns) * height;
      context.clearRect(0, 0, width, height);
      context.drawImage(sheet, x, y, width, height, 0, 0, width, height);
    });
    sheet.hidden = true;
    canvas.hidden = false;
  });
}
for (const player of document.querySelectorAll(".player[data-frames]")) {
  const frames = [...player.querySelectorAll(".frame")];
  animate(player, JSON.parse(player.dataset.frames).labels, (shown) => {
    frames.forEach((frame, index) => frame.setAttribute("display", index === shown ? "inline" : "none"));
  });
}

// Curves: the values at the step under the pointer, or under the arrow keys.
for (const plot of document.querySelectorAll(".chart .plot")) {
  const series = JSON.parse(plot.dataset.points);
  const cursor = plot.querySelector(".cursor");
  const readOut = plot.parentElement.querySelector(".read-out");
  const longest = series.reduce((a, b) => (b.steps.length > a.steps.length ? b : a));
  let index = longest.steps.length - 1;

  const nearest = (places, place) => {
    let best = 0;
    for (let i = 1; i < places.length; i++) {
      if (Math.abs(places[i] - place) < Math.abs(places[best] - place)) best = i;
    }
    return best;
  };
  const show = () => {
    const place = longest.places[index];
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, `${100 * place}%`);
    cursor.setAttribute("visibility", "visible");
    const step = longest.steps[index];
    const values = series.map((one) => {
      const i = nearest(one.places, place);
      const at = one.steps[i] === step ? "" : ` (step ${one.steps[i].toLocaleString("en")})`;
      return `${one.name} ${one.values[i]}${at}`;
    });
    readOut.textContent = `step ${step.toLocaleString("en")}: ${values.join(", ")}`;
  };
  const hide = () => {
    cursor.setAttribute("visibility", "hidden");
    readOut.textContent = "";
  };
  const follow = (event) => {
    const box = plot.getBoundingClientRect();
    index = nearest(longest.places, (event.clientX - box.left) / box.width);
    show();
  };
  plot.addEventListener("pointerdown", follow);
  plot.addEventListener("pointermove", follow);
  plot.addEventListener("pointerleave", hide);
  plot.addEventListener("blur", hide);
  plot.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!move) return;
    event.preventDefault();
    index = Math.min(Math.max(index + move, 0), longest.steps.length - 1);
    show();
  });
}

// Commands: a button that copies them; where the browser forbids it, the text is selected instead.
for (const command of document.querySelectorAll(".command")) {
  const button = command.querySelector("button");
  const code = command.querySelector("code");
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
