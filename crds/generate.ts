/**
 * Makes the TypeScript types from the two contracts: `crds/*.yaml` and `controller/api/protocol.v1.schema.json`.
 *
 * `node crds/generate.ts` writes; `node crds/generate.ts --check` exits with 1 when a committed file is stale.
 * The types are those of *stored* objects: a field with a default is there.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { compile, type JSONSchema } from 'json-schema-to-typescript';
import { parse } from 'yaml';

type Schema = Record<string, unknown> & {
  type?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
};

interface CrdManifest {
  spec: {
    names: { kind: string };
    versions: { name: string; storage: boolean; schema: { openAPIV3Schema: Schema } }[];
  };
}

const root = new URL('..', import.meta.url);
const banner = (source: string): string =>
  `/* Generated from ${source} by crds/generate.ts. Change the source, then run "npm run generate". */`;
const compileOptions = {
  bannerComment: '',
  additionalProperties: false,
  ignoreMinAndMaxItems: true,
  strictIndexSignatures: true,
  declareExternallyReferenced: true,
  format: true,
  style: { singleQuote: true, printWidth: 120 },
} as const;

/** Drops what only Kubernetes reads, closes objects and makes defaulted fields required. */
function toStoredType(schema: Schema): Schema {
  const out: Schema = {};
  for (const [key, value] of Object.entries(schema)) {
    if (!key.startsWith('x-kubernetes') && key !== 'default') out[key] = value;
  }
  if (schema.properties !== undefined) {
    const entries = Object.entries(schema.properties);
    out.properties = Object.fromEntries(entries.map(([name, property]) => [name, toStoredType(property)]));
    const defaulted = entries.filter(([, property]) => 'default' in property).map(([name]) => name);
    out.required = [...new Set([...(schema.required ?? []), ...defaulted])];
    out.additionalProperties = false;
  }
  if (schema.items !== undefined) out.items = toStoredType(schema.items);
  return out;
}

async function crdTypes(): Promise<string> {
  const parts: string[] = [];
  const directory = new URL('crds/', root);
  for (const file of readdirSync(directory)
    .filter((name) => name.endsWith('.yaml'))
    .sort()) {
    const crd = parse(readFileSync(new URL(file, directory), 'utf8')) as CrdManifest;
    const { kind } = crd.spec.names;
    const version = crd.spec.versions.find((candidate) => candidate.storage);
    const { spec, status } = version?.schema.openAPIV3Schema.properties ?? {};
    for (const [suffix, part] of [
      ['Spec', spec],
      ['Status', status],
    ] as const) {
      if (part === undefined) continue;
      const schema = toStoredType(part);
      if (suffix === 'Status' && schema.properties?.conditions) {
        schema.properties.conditions = { type: 'array', items: { tsType: 'Condition' } as Schema };
      }
      parts.push(
        await compile({ ...schema, title: `${kind}${suffix}` } as JSONSchema, `${kind}${suffix}`, compileOptions),
      );
    }
    parts.push(`export interface ${kind} extends KubeObject {\n  spec: ${kind}Spec;\n  status?: ${kind}Status;\n}\n`);
  }
  return `${banner('crds/*.yaml')}\nimport type { Condition, KubeObject } from './meta.ts';\n\n${parts.join('\n')}`;
}

async function protocolTypes(): Promise<string> {
  const source = 'controller/api/protocol.v1.schema.json';
  const schema = JSON.parse(readFileSync(new URL(source, root), 'utf8')) as JSONSchema;
  return `${banner(source)}\n${await compile(schema, 'AgentProtocol', compileOptions)}`;
}

const outputs: [string, () => Promise<string>][] = [
  ['controller/api/types.generated.ts', crdTypes],
  ['controller/api/protocol.generated.ts', protocolTypes],
];
const check = process.argv.includes('--check');
for (const [path, make] of outputs) {
  const text = await make();
  const target = new URL(path, root);
  if (!check) {
    writeFileSync(target, text);
    continue;
  }
  let committed = '';
  try {
    committed = readFileSync(target, 'utf8');
  } catch {
    // Not there: as stale as a file can be.
  }
  if (committed !== text) {
    console.error(`${path} is stale: run "npm run generate" and commit it`);
    process.exitCode = 1;
  }
}
