/**
 * Bundles the program into `dist/controller/main.js` for the container image, where nothing but Node runs it.
 *
 * Invariant: dist/ mirrors the repository. A module that reads a file by a path relative to itself finds it in the bundle too, because
 * its `import.meta.url` still says where it stood.
 */
import { cpSync, globSync, rmSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { relative } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { build, type Plugin } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const outfile = 'dist/controller/main.js';

/** What the program reads at run time. */
const assets = ['package.json', 'crds/*.yaml', '{agent,controller}/**/*.{json,sql}', 'examples/**/*.yaml'];

const keepPlaces: Plugin = {
  name: 'keep-places',
  setup(context) {
    context.onLoad({ filter: /\.ts$/ }, async ({ path }) => {
      const text = await readFile(path, 'utf8');
      const place = relative(`${root}dist/controller`, `${root}dist/${relative(root, path)}`);
      const own = `new URL(${JSON.stringify(place)}, import.meta.url).href`;
      return { loader: 'ts', contents: text.replaceAll(/\bimport\.meta\.url\b/g, own) };
    });
  },
};

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
  plugins: [keepPlaces],
});
for (const file of globSync(assets, { cwd: root })) cpSync(`${root}${file}`, `${root}dist/${file}`);
process.stdout.write(`${outfile}\n`);
