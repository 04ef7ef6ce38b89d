/**
 * What the parts of the API suite share: paths, objects, and the calls with their expectations.
 */
import assert from 'node:assert/strict';
import type { Answer, ApiTarget, Json } from '../support/api-target.ts';

export const widgets = '/apis/test.bitvisor.io/v1/namespaces/api-contract/widgets';
export const gadgets = '/apis/test.bitvisor.io/v1/gadgets';
export const configMaps = '/api/v1/namespaces/api-contract/configmaps';
export const merge = 'application/merge-patch+json';

let counter = 0;
export const freshName = (prefix: string): string => `${prefix}-${process.pid}-${++counter}`;

export function widget(name: string, spec: Json = { replicas: 1 }, metadata: Json = {}): Json {
  return { apiVersion: 'test.bitvisor.io/v1', kind: 'Widget', metadata: { name, ...metadata }, spec };
}

export function expectStatus(answer: Answer, status: number): Json {
  assert.equal(answer.status, status, JSON.stringify(answer.body));
  return answer.body;
}

export function gadget(name: string, metadata: Json = {}): Json {
  return { apiVersion: 'test.bitvisor.io/v1', kind: 'Gadget', metadata: { name, ...metadata }, spec: { color: 'red' } };
}

export interface Api {
  call: ApiTarget['call'];
  create(path: string, body: Json): Promise<Json>;
  patch(path: string, body: Json, type?: string): Promise<Answer>;
  watch: ApiTarget['watch'];
}
