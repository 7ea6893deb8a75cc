for (const pair of document.querySelectorAll(".compare")) {
  const slider = pair.querySelector("input");
  const move = () => pair.style.setProperty("--at", slider.value + "%");
  slider.addEventListener("input", move);
  move();
}
document.documentElement.classList.add("live");
