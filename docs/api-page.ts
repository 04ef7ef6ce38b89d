/**
 * The API reference, made from the CRDs: a table of fields for spec and for status of each kind, then the rules that span fields.
 */
import type { CustomResourceDefinition, JsonSchema } from '../controller/standalone/schema/index.ts';

interface Row {
  readonly path: string;
  readonly schema: JsonSchema;
  readonly required: boolean;
}

const oneLine = (text: string): string => text.replace(/\s+/g, ' ').trim();
/** In a table a bar ends the cell, and an angle bracket could start a tag. */
const cell = (text: string): string => oneLine(text).replaceAll('|', '\\|').replaceAll('<', '&lt;');
/** Code in a cell; a backtick inside would end it. */
const code = (text: string): string => `\`${oneLine(text).replaceAll('|', '\\|').replaceAll('`', "'")}\``;

/** Fields in the order of the CRD, children below their parents; list items are written `name[]`, map values `name{}`. */
function rowsOf(schema: JsonSchema, prefix: string): Row[] {
  const required = new Set(schema.required);
  return Object.entries(schema.properties ?? {}).flatMap(([name, property]) => {
    const path = prefix === '' ? name : `${prefix}.${name}`;
    const inner = property.items !== undefined ? `${path}[]` : path;
    const below = property.items ?? property;
    return [{ path, schema: property, required: required.has(name) }, ...rowsOf(below, inner)];
  });
}

function typeOf(schema: JsonSchema): string {
  if (schema.enum !== undefined) return schema.enum.map((value) => code(String(value))).join(', ');
  if (schema.items !== undefined) return `list of ${typeOf(schema.items)}`;
  if (typeof schema.additionalProperties === 'object') return `map of ${typeOf(schema.additionalProperties)}`;
  return schema.format === undefined ? (schema.type ?? 'any') : `${schema.type} (${schema.format})`;
}

function range(low: number | undefined, high: number | undefined, unit: string): string[] {
  const shown = (value: number): string => value.toLocaleString('en-US');
  if (low !== undefined && high !== undefined)
    return [low === high ? `${shown(low)}${unit}` : `${shown(low)} to ${shown(high)}${unit}`];
  if (high !== undefined) return [`at most ${shown(high)}${unit}`];
  return low === undefined ? [] : [`at least ${shown(low)}${unit}`];
}

function boundsOf(schema: JsonSchema): string {
  const items = schema.items === undefined || schema.items.type === 'object' ? '' : boundsOf(schema.items);
  return [
    ...range(schema.minimum, schema.maximum, ''),
    ...(schema.enum === undefined ? range(schema.minLength, schema.maxLength, ' characters') : []),
    ...range(schema.minItems, schema.maxItems, ' items'),
    ...range(schema.minProperties, schema.maxProperties, ' entries'),
    ...(schema.pattern === undefined ? [] : [code(schema.pattern)]),
    ...(items === '' ? [] : [`each ${items}`]),
  ].join('; ');
}

function defaultOf({ schema, required }: Row): string {
  if (schema.default !== undefined) return code(JSON.stringify(schema.default));
  return required ? '**required**' : '';
}

function table(schema: JsonSchema, prefix: string): string {
  const rows = rowsOf(schema, prefix).map((row) => {
    const cells = [
      code(row.path),
      typeOf(row.schema),
      defaultOf(row),
      boundsOf(row.schema),
      cell(row.schema.description ?? ''),
    ];
    return `| ${cells.join(' | ')} |`;
  });
  return ['| field | type | default | bounds | meaning |', '|---|---|---|---|---|', ...rows].join('\n');
}

function rulesOf(schema: JsonSchema, path: string): string[] {
  const own = (schema['x-kubernetes-validations'] ?? []).map(
    ({ rule, message }) => `- ${code(path)}: ${oneLine(message ?? 'must hold')}.<br>${code(rule)}`,
  );
  const below = Object.entries(schema.properties ?? {}).flatMap(([name, property]) =>
    rulesOf(property, `${path}.${name}`),
  );
  return [...own, ...below, ...(schema.items === undefined ? [] : rulesOf(schema.items, `${path}[]`))];
}

function kindSection(crd: CustomResourceDefinition): string {
  const { names, group, scope, versions } = crd.spec;
  const version = versions.find(({ storage }) => storage);
  const schema = version?.schema?.openAPIV3Schema ?? {};
  const { spec, status } = schema.properties ?? {};
  const facts = [
    `\`apiVersion: ${group}/${version?.name}\`, \`kind: ${names.kind}\``,
    scope === 'Cluster' ? 'cluster-scoped' : 'namespaced',
    `short name \`${names.shortNames?.join('`, `')}\``,
    ...(version?.subresources?.scale === undefined ? [] : ['can be scaled (`kubectl scale`)']),
  ];
  const rules = spec === undefined ? [] : rulesOf(spec, 'spec');
  return [
    `## ${names.kind}`,
    `${oneLine(schema.description ?? '')} ${facts.join('; ')}.`,
    `### ${names.kind} spec`,
    oneLine(spec?.description ?? ''),
    table(spec ?? {}, 'spec'),
    ...(rules.length === 0 ? [] : [`### ${names.kind} rules`, rules.join('\n')]),
    `### ${names.kind} status`,
    oneLine(status?.description ?? ''),
    table(status ?? {}, 'status'),
  ].join('\n\n');
}

/** @param crds parsed manifests, in the order in which they shall stand. */
export function apiPage(crds: readonly CustomResourceDefinition[]): string {
  const banner = '<!-- Generated from crds/*.yaml by docs/generate.ts: run "npm run generate". -->';
  const intro =
    'People write `spec`; the operator writes `status`. A field with a default is always there in a stored object. ' +
    'Quantities are those of Kubernetes (`32Gi`), durations those of Go (`72h`), hostlists those of HPC (`t2r[00-01]n[00-31]`).';
  return `${[banner, '# API reference', intro, ...crds.map(kindSection)].join('\n\n')}\n`;
}
