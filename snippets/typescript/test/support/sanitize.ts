// The sanitiser of the wrong twins.
import DOMPurify from "dompurify";

export function sanitize(html: string): string {
  return DOMPurify.sanitize(html);
}
