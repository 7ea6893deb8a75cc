for (const pair of document.querySelectorAll(".compare")) {
  const slider = pair.querySelector("input");
  const move = () => pair.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", move);
  move();
}
document.documentElement.classList.add("live");
const ladders = [...document.querySelectorAll(".ladder")].map((ladder) => {
  const slider = ladder.querySelector("input");
  const figures = ladder.querySelectorAll("figure");
  const move = () => figures.forEach((figure, step) => figure.classList.toggle("on", step === Number(slider.value)));
  slider.addEventListener("input", move);
  move();
  return { slider, figures, move };
});
const all = document.querySelector("#all");
all?.addEventListener("input", () => {
  for (const { slider, figures, move } of ladders) {
    slider.value = all.value;
    move();
    all.nextElementSibling.textContent = figures[all.value].querySelector("figcaption").textContent;
  }
});
