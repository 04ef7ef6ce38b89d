/**
 * The CustomResourceDefinitions, as crds/*.yaml states them. A chart of their own: a chart stamps its namespace on everything in
 * it, and these belong to none.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { ApiObject, type ApiObjectProps, Chart } from 'cdk8s';
import type { Construct } from 'constructs';
import { parse } from 'yaml';

const directory = new URL('../crds/', import.meta.url);

export class CrdsChart extends Chart {
  constructor(scope: Construct, id: string) {
    super(scope, id, { disableResourceNameHashes: true });
    for (const file of readdirSync(directory)
      .filter((name) => name.endsWith('.yaml'))
      .sort()) {
      new ApiObject(this, file, parse(readFileSync(new URL(file, directory), 'utf8')) as ApiObjectProps);
    }
  }
}
