// Unknown mean mu ~ Normal(1, sd sqrt 5), measured twice: y0, y1 ~ Normal(mu, sd sqrt 2).
// With --marsaglia the mean is drawn by a rejection loop, so that traces differ in length.

import * as ppx from "./ppx.mjs";

async function marsaglia() {
  return ppx.rejection("polar", async () => {
    for (;;) {
      const x = await ppx.sample(ppx.Uniform(-1, 1), "x");
      const y = await ppx.sample(ppx.Uniform(-1, 1), "y");
      const square = x * x + y * y;
      if (square > 0 && square < 1) return 1 + Math.sqrt(5) * x * Math.sqrt((-2 * Math.log(square)) / square);
    }
  });
}

async function gaussian() {
  const polar = process.argv.includes("--marsaglia");
  const mu = polar ? await marsaglia() : await ppx.sample(ppx.Normal(1, Math.sqrt(5)), "mu");
  await ppx.observe(ppx.Normal(mu, Math.sqrt(2)), "y0");
  await ppx.observe(ppx.Normal(mu, Math.sqrt(2)), "y1");
  await ppx.tag(mu, "mean");
  return mu;
}

await ppx.serve(gaussian, { name: "gaussian" });
