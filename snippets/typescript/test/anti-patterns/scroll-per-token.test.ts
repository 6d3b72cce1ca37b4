// Wrong: a page that scrolls to the end of the conversation for each token of an answer
// Harm: a reader who has scrolled up is pulled back to the end with the next token, and can read nothing above it
// Instead: llm/chat_page
// Probe: cannot see: a page
import { expect, test } from "vitest";
import { load, openPage } from "../support/browser.ts";
import { serve } from "../support/server.ts";

declare const pattern: typeof import("../support/chat-log.tsx");

test("scrolling for each token takes the page from its reader", async () => {
  const page = await openPage((await serve({})).origin);
  await load(page, "test/support/chat-log.tsx");
  const places = await page.evaluate(async () => {
    const { scroller, grow, frames, sticky } = pattern.mountSticky();
    await grow();
    scroller.scrollTop = 50;
    await frames();
    await grow();
    const right = scroller.scrollTop;
    sticky.disconnect();
    for (let token = 0; token < 3; token++) {
      scroller.firstElementChild!.appendChild(document.createElement("p")).textContent = "token";
      scroller.firstElementChild!.lastElementChild!.scrollIntoView();
    }
    return { right, wrong: scroller.scrollTop };
  });
  expect(places.right).toBe(50);
  expect(places.wrong).toBeGreaterThan(200);
});
