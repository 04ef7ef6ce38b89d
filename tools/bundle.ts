/**
 * Bundles the program into one file, `dist/controller/main.js`, for the container image; nothing but node runs it.
 * Files that the program reads beside itself keep their place relative to the module that reads them: see `assets`.
 */
import { cpSync, globSync, mkdirSync, rmSync } from 'node:fs';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const outfile = `${root}dist/controller/main.js`;

/** Data that is read at run time by a path relative to the repository's root. */
const assets = ['package.json', 'crds/*.yaml', 'controller/**/*.json', 'controller/**/*.sql', 'examples/**/*.yaml'];

/** Dependencies written for CommonJS call `require`, which a bundle in module format lacks. */
const banner =
  "import { createRequire as makeRequire } from 'node:module';\nconst require = makeRequire(import.meta.url);";

rmSync(`${root}dist`, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: ['controller/main.ts'],
  outfile,
  bundle: true,
  platform: 'node',
  target: 'node24',
  format: 'esm',
  banner: { js: banner },
  sourcemap: 'linked',
  logLevel: 'warning',
});
mkdirSync(`${root}dist`, { recursive: true });
for (const file of globSync(assets, { cwd: root })) cpSync(`${root}${file}`, `${root}dist/${file}`);
process.stdout.write(`${outfile}\n`);
