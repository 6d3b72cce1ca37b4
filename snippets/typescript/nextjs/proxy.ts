// ANCHOR: proxy
import { type NextRequest, NextResponse } from "next/server";

export function proxy(request: NextRequest): NextResponse {
  const headers = new Headers(request.headers);
  headers.set("x-request-id", crypto.randomUUID());
  return NextResponse.next({ request: { headers } });
}

// For every path that matches, Next reads the whole request body into memory first and cuts it at 10 MB
// (`experimental.proxyClientMaxBodySize`) without an error. So uploads and streams are left out, and what is checked
// here, such as a session, must be checked in those routes again.
export const config = { matcher: "/((?!api/|backend/|_next/).*)" };
// ANCHOR_END: proxy
