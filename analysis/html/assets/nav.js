// The link of the section that is on the screen is marked in the contents, which stay at the top of the window.

function makeNavigation(nav) {
  const links = new Map([...nav.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...links.keys()].map((id) => document.getElementById(id));
  let current = null;
  const mark = () => {
    const line = nav.offsetHeight + 40;
    const end = window.innerHeight + window.scrollY >= document.documentElement.scrollHeight - 2;
    const above = sections.filter((one) => one.getBoundingClientRect().top <= line);
    const link = links.get((end ? sections[sections.length - 1] : above[above.length - 1] || sections[0]).id);
    if (link === current) return;
    if (current !== null) current.removeAttribute("aria-current");
    current = link;
    link.setAttribute("aria-current", "true");
    nav.scrollTo({ left: link.offsetLeft - (nav.clientWidth - link.offsetWidth) / 2 });
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  };
  window.addEventListener("scroll", soon, { passive: true });
  window.addEventListener("resize", soon);
  mark();
}
