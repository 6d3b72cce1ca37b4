import { connection } from "next/server";
import { Suspense } from "react";
import { answers } from "@/lib/answers.ts";
import { names } from "./state.ts";

async function Names(): Promise<React.ReactNode> {
  await connection();
  const shared = answers.all().filter(({ question }) => question === "module-state");
  return <output>{`own ${names.length}, shared ${shared.length}`}</output>;
}

export default function Page(): React.ReactNode {
  return (
    <Suspense>
      <Names />
    </Suspense>
  );
}
