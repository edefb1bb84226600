
mountLesson(document.getElementById("lesson"), JSON.parse(document.getElementById("data").textContent), document);
document.getElementById("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
};
