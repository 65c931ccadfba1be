// Sample lists: the recommendations of all rows for one context, and sampled groups with their advantages.

const VERDICTS = {
  hit: ["●", "hit"], miss: ["○", "miss"], out_of_catalog: ["⊘", "out of catalogue"], seen: ["↺", "already seen"],
  duplicate: ["≡", "duplicate"],
};
const CARDS_SHOWN = 8;
const GROUPS_SHOWN = 3;

function verdictOf(name) {
  return VERDICTS[name] || ["·", name];
}

// The key of the verdicts' signs and words.
function verdictKey() {
  return element("div", { class: "verdictkey" }, Object.entries(VERDICTS).map(([name, [sign, word]]) => element("span", { class: name },
    element("span", { class: "sign", "aria-hidden": "true" }, sign), " ", element("span", { class: "word" }, word))));
}

// One rank of a list.
function rankItem(k, title, verdict, bar = null) {
  const [sign, word] = verdictOf(verdict);
  return element("li", { class: verdict }, element("span", { class: "rank" }, `${k + 1}.`),
    element("span", { class: "sign", "aria-hidden": "true" }, sign), element("span", { class: "film" }, title),
    element("span", { class: "word" }, word), bar);
}

function unique(values) {
  return [...new Set(values)];
}

class Lists {
  constructor(panel, data) {
    this.data = data;
    this.samples = data.samples;
    panel.append(verdictKey());
    if (this.samples.greedy.length) this.greedy(panel);
    if (this.samples.groups.length) this.groups(panel);
    const seeds = unique(this.samples.seeds);
    const told = [`Each row shows the run with its lowest seed${seeds.length === 1 ? ` (${seeds[0]})` : ""}.`,
      ...this.samples.leftOut.map((one) => `${capital(one)}.`)];
    panel.append(element("p", { class: "note" }, told.join(" ")));
  }

  contextOf(index, open) {
    const context = this.samples.contexts[index];
    const relevant = context.relevant.map((title) => this.samples.titles[title]).join("; ") || "none";
    return element("details", { class: "context", open },
      element("summary", {}, `Context ${context.id || "without a name"}`),
      element("p", { class: "prompt" }, context.prompt), element("p", {}, element("strong", {}, "Relevant: "), relevant));
  }

  rank([title, verdict, reward, advantage], k, most) {
    const bar = advantage === undefined ? null : this.advantage(reward, advantage, most);
    return rankItem(k, this.samples.titles[title], this.samples.verdicts[verdict], bar);
  }

  advantage(reward, advantage, most) {
    const bar = element("i", { class: advantage < 0 ? "down" : "up" });
    bar.style.width = `${most ? (50 * Math.abs(advantage)) / most : 0}%`;
    return element("span", { class: "advantage", title: `return ${written(reward)}, advantage ${written(advantage)}` },
      element("span", { class: "way", "aria-hidden": "true" }, bar), `A ${advantage === null ? "–" : signed(advantage)}`);
  }

  written(text) {
    return text === null ? null : element("details", {}, element("summary", {}, "as written"), element("pre", {}, text));
  }

  // Greedy lists: one context, one update, one card per row.
  greedy(panel) {
    const all = this.samples.greedy;
    const contexts = unique(all.map((one) => one[2]));
    const rows = unique(all.map((one) => one[0])).sort((a, b) => a - b);
    const learned = rows.filter((row) => this.data.rows[row].stage !== "baseline");
    const shown = firstRows(this.data, learned.length ? learned : rows, CARDS_SHOWN, CARDS_SHOWN);
    const state = { context: contexts[0], step: null };
    const controls = element("div", { class: "controls" });
    const body = element("div");
    const cards = () => {
      const own = all.filter((one) => one[2] === state.context);
      const picked = rows.filter((row) => shown.has(row)).map((row) => {
        const listed = own.filter((one) => one[0] === row);
        const before = listed.filter((one) => one[1] <= state.step || this.data.rows[row].stage !== "rl");
        return before[before.length - 1];
      }).filter(Boolean);
      body.replaceChildren(this.contextOf(state.context, true), element("div", { class: "cards" }, picked.map((one) => this.card(one))));
    };
    const choose = () => {
      const splits = unique(contexts.map((c) => this.samples.contexts[c].split));
      const named = (c) => [String(c), this.samples.contexts[c].id || `context ${c + 1}`];
      const options = splits.map((split) => ({ group: split, options: contexts.filter((c) => this.samples.contexts[c].split === split).map(named) }));
      const trained = all.filter((one) => one[2] === state.context && this.data.rows[one[0]].stage === "rl");
      const steps = unique((trained.length ? trained : all.filter((one) => one[2] === state.context)).map((one) => one[1])).sort((a, b) => a - b);
      if (!steps.includes(state.step)) state.step = steps[steps.length - 1];
      controls.replaceChildren(
        choice("Context", options, String(state.context), (value) => { state.context = Number(value); choose(); }),
        choice("Update", steps.map((step) => [String(step), String(step)]), String(state.step), (value) => { state.step = Number(value); cards(); }),
      );
      cards();
    };
    panel.append(element("h3", {}, "Greedy lists at evaluations"), controls, body, legend(this.data, rows, shown, cards),
      element("p", { class: "note" }, "A trained row shows its last list at or before the update. Other rows show their last list."));
    choose();
  }

  card([row, step, , score, ranks, text]) {
    const hits = ranks.filter(([, verdict]) => this.samples.verdicts[verdict] === "hit").length;
    const meta = [`update ${step}`, `${hits} ${hits === 1 ? "hit" : "hits"}`, score === null ? null : `NDCG ${written(score)}`];
    return element("article", { class: "card" }, element("h4", {}, swatchOf(this.data.rows[row]), this.data.rows[row].name),
      element("p", { class: "meta" }, meta.filter(Boolean).join(" · ")),
      element("ol", {}, ranks.map((rank, k) => this.rank(rank, k))),
      ranks.length ? null : element("p", { class: "meta" }, "no entry"), this.written(text));
  }

  // Sampled groups: one update, one prompt, the lists of each row by reward.
  groups(panel) {
    const all = this.samples.groups;
    const steps = unique(all.map((one) => one[1])).sort((a, b) => a - b);
    const rows = unique(all.map((one) => one[0])).sort((a, b) => a - b);
    const shown = firstRows(this.data, rows, GROUPS_SHOWN, GROUPS_SHOWN);
    const state = { step: steps[steps.length - 1], context: null };
    const controls = element("div", { class: "controls" });
    const body = element("div");
    const draw = () => {
      const own = all.filter((one) => one[1] === state.step && one[2] === state.context);
      const picked = own.filter((one) => shown.has(one[0]));
      const absent = rows.filter((row) => shown.has(row) && !own.some((one) => one[0] === row)).map((row) => this.data.rows[row].name);
      body.replaceChildren(this.contextOf(state.context, true), ...picked.map((one) => this.group(one)),
        absent.length ? element("p", { class: "note" }, `No group at this update and prompt was recorded for ${absent.join(", ")}.`) : "");
    };
    const choose = () => {
      const here = all.filter((one) => one[1] === state.step);
      const contexts = unique(here.map((one) => one[2]));
      if (!contexts.includes(state.context)) {
        const count = (context) => here.filter((one) => one[2] === context).length;
        state.context = [...contexts].sort((a, b) => count(b) - count(a))[0];
      }
      const named = (c) => [String(c), this.samples.contexts[c].id || `prompt ${contexts.indexOf(c) + 1}`];
      controls.replaceChildren(
        choice("Update", steps.map((step) => [String(step), String(step)]), String(state.step), (value) => { state.step = Number(value); choose(); }),
        choice("Prompt", contexts.map(named), String(state.context), (value) => { state.context = Number(value); draw(); }),
      );
      draw();
    };
    panel.append(element("h3", {}, "Sampled groups of the training"), controls, body, legend(this.data, rows, shown, draw),
      element("p", { class: "note" }, "Lists are sorted by reward, highest first. A is the advantage of a rank. Its bar is "
        + "scaled to the largest of the group and points to the right if A is positive."));
    choose();
  }

  group([row, , , lists]) {
    const advantages = lists.flatMap((list) => list[3].map((rank) => Math.abs(rank[3] || 0)));
    const most = Math.max(0, ...advantages);
    const ordered = lists.map((list, i) => ({ list, i })).sort((a, b) => b.list[0] - a.list[0] || a.i - b.i);
    const mean = lists.reduce((sum, list) => sum + list[0], 0) / lists.length;
    const told = `${lists.length} lists, mean reward ${written(mean)}${most === 0 ? "; no signal: every advantage is 0" : ""}`;
    return element("section", {},
      element("h4", {}, swatchOf(this.data.rows[row]), this.data.rows[row].name, " ", element("span", { class: "soft" }, told)),
      element("div", { class: "strip", tabindex: 0, role: "region", "aria-label": `Lists of ${this.data.rows[row].name}` },
        ordered.map(({ list: [reward, hits, finished, ranks, text], i }) => element("article", { class: "card" },
          element("p", { class: "meta" }, `list ${i + 1} · reward ${written(reward)} · ${hits} ${hits === 1 ? "hit" : "hits"}${finished ? "" : " · cut off"}`),
          element("ol", {}, ranks.map((rank, k) => this.rank(rank, k, most))), this.written(text)))));
  }
}
