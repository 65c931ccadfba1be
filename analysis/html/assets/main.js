// Start the interactive parts of the page.

function start() {
  document.documentElement.classList.add("scripted");
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll("table.sortable").forEach(makeSortable);
  makeFilter(document.getElementById("filter"), document.getElementById("every-run"), document.getElementById("filtered"));
  const parts = [["curves-panel", Chart], ["ranks-panel", HeatMaps], ["lists-panel", Lists]];
  for (const [id, Part] of parts) {
    const panel = document.getElementById(id);
    if (panel !== null) new Part(panel, data);
  }
}

start();
