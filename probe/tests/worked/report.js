const source = new EventSource("/reports/q3");
source.addEventListener("page", (event) => {
  bar.value = Number(event.data);
});
source.addEventListener("done", () => source.close());
