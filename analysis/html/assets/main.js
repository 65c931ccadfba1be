// Start the interactive parts of the page.

function start() {
  document.documentElement.classList.add("scripted");
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("table.sortable").forEach((table) => {
    makeSortable(table);
    makeExport(table, data.latex);
  });
  document.querySelectorAll("[data-more]").forEach((box) => {
    const table = document.getElementById(box.dataset.more);
    box.addEventListener("change", () => table.classList.toggle("all", box.checked));
  });
  document.querySelectorAll("pre.command").forEach(makeCopied);
  document.querySelectorAll("nav").forEach(makeNavigation);
  const filter = document.getElementById("filter");
  if (filter !== null) makeFilter(filter, document.getElementById("every-run"), document.getElementById("filtered"));
  const parts = [["curves-panel", Chart], ["contexts-panel", Contexts], ["ranks-panel", HeatMaps], ["lists-panel", Lists]];
  for (const [id, Part] of parts) {
    const panel = document.getElementById(id);
    if (panel !== null) new Part(panel, data);
  }
}

start();
