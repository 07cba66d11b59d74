// Links between pages without reloading: plain links anywhere on the page that name a page of the dashboard are
// followed by Streamlit itself, so that the session and its sockets stay. Without this script they still work.

let follow = null;

function onClick(event) {
  const link = event.composedPath().find((node) => node instanceof HTMLAnchorElement && node.dataset.page);
  if (!link || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  follow?.({ page: link.dataset.page, job: link.dataset.job || null, n: Date.now() });
}

export default function ({ setTriggerValue }) {
  follow = (target) => setTriggerValue("follow", target);
  document.addEventListener("click", onClick); // adding the same listener again changes nothing
  document.documentElement.dataset.links = "followed";
  return () => {
    follow = null;
    delete document.documentElement.dataset.links;
    document.removeEventListener("click", onClick);
  };
}
