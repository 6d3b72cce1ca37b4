// llm/stick-to-bottom: keeps the end of a growing answer in view, unless its reader reads something else.
//
// Use it on the element that scrolls. Needs no other file.
// Guarantee: after the reader has scrolled up, selected text or moved the focus into the content, nothing moves until they
// are back at the bottom or ask for it.

// ANCHOR: stick
export interface Sticky {
  /** For a button "to the newest": false while the reader is elsewhere. */
  atBottom(): boolean;
  toBottom(): void;
  disconnect(): void;
}

/** `content` is the child of `scroller` that grows; `onChange` runs when `atBottom` changes; `near` in CSS pixels. */
export function stickToBottom(
  scroller: HTMLElement,
  content: HTMLElement,
  onChange: () => void = () => undefined,
  near = 32,
): Sticky {
  let stuck = true;
  let last = scroller.scrollTop;
  const set = (value: boolean): void => {
    if (stuck === value) return;
    stuck = value;
    onChange();
  };
  const toBottom = (): void => {
    scroller.scrollTop = scroller.scrollHeight;
    last = scroller.scrollTop;
    set(true);
  };
  const onScroll = (): void => {
    const { scrollTop, scrollHeight, clientHeight } = scroller;
    // Only the reader moves up: growing content makes the distance larger without a move.
    if (scrollTop < last - 1) set(false);
    if (scrollHeight - scrollTop - clientHeight <= near) set(true);
    last = scrollTop;
  };
  const selecting = (): boolean => {
    const selection = getSelection();
    return selection !== null && !selection.isCollapsed && content.contains(selection.anchorNode);
  };
  // After layout and before paint: no frame shows the old position.
  const observer = new ResizeObserver(() => {
    if (stuck && !selecting() && !content.contains(document.activeElement)) toBottom();
  });
  observer.observe(content);
  scroller.addEventListener("scroll", onScroll, { passive: true });
  return {
    atBottom: () => stuck,
    toBottom,
    disconnect() {
      observer.disconnect();
      scroller.removeEventListener("scroll", onScroll);
    },
  };
}
// ANCHOR_END: stick
