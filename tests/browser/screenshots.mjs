// Takes the pictures in docs/images: the page with a known state, wide and on a phone, light and dark. `./justw screenshots`

import { mkdir, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { serve } from "./fixture_server.mjs";
import { launch } from "./harness.mjs";
import { smaller } from "./png.mjs";

const IMAGES = fileURLToPath(new URL("../../docs/images/", import.meta.url));
const NOW = Date.UTC(2026, 10, 28, 14, 2, 5);
const MOST_BYTES = 200_000;
const SIZES = { wide: { viewport: { width: 1280, height: 900 }, fullPage: true }, phone: { viewport: { width: 360, height: 780 }, deviceScaleFactor: 2 } };

await mkdir(IMAGES, { recursive: true });
const server = await serve({ now: NOW });
const browser = await launch();
for (const [size, { fullPage = false, ...options }] of Object.entries(SIZES)) {
  for (const scheme of ["light", "dark"]) {
    const page = await browser.newPage({ ...options, colorScheme: scheme, reducedMotion: "reduce" });
    await page.clock.setFixedTime(NOW);
    await page.goto(server.url);
    await page.waitForFunction(() => document.querySelector("#ingestion .peak")?.textContent);
    await page.evaluate(() => document.fonts.ready);
    const path = `${IMAGES}dashboard-${size}-${scheme}.png`;
    const png = smaller(await page.screenshot({ fullPage }));
    await writeFile(path, png);
    await page.close();
    console.log(`${path}: ${png.length} bytes`);
    if (png.length > MOST_BYTES) process.exitCode = 1;
  }
}
await browser.close();
await server.close();
