#!/bin/sh
# Unused files, exports and packages of the TypeScript patterns and of the Next.js application. Their packages must be installed.
set -eu
cd "$(dirname "$0")/../snippets/typescript"
knip=$PWD/../../tools/node_modules/knip/bin/knip.js
node "$knip" --no-progress --treat-config-hints-as-errors --config ../../tools/unused.json
cd nextjs
node "$knip" --no-progress
