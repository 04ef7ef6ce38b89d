/**
 * What clients rely on in a Kubernetes API server, spoken over raw HTTPS: one suite for the embedded server and for a real
 * kube-apiserver, so that the first cannot drift from the second.
 */
import assert from 'node:assert/strict';
import { after, before, describe } from 'node:test';
import type { Answer, ApiTarget, Json } from '../support/api-target.ts';
import { builtInTests, formTests, listTests, watchTests } from './api-reads.ts';
import { type Api, expectStatus, merge } from './api-support.ts';
import { validationTests } from './api-validation.ts';
import { conflictTests, deletionTests, metadataTests, patchTests } from './api-writes.ts';

/** Registers the suite; `start` gives a server that serves the CRDs of widget-crds.ts. */
export function apiContract(name: string, start: () => Promise<ApiTarget>): void {
  describe(`API semantics: ${name}`, () => {
    let target: ApiTarget;
    const call: ApiTarget['call'] = (method, path, options) => target.call(method, path, options);
    const create = async (path: string, body: Json): Promise<Json> =>
      expectStatus(await call('POST', path, { body }), 201);
    const patch = (path: string, body: Json, type = merge): Promise<Answer> => call('PATCH', path, { body, type });
    const api: Api = { call, create, patch, watch: (path) => target.watch(path) };

    before(async () => {
      target = await start();
      const namespace = { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'api-contract' } };
      const { status } = await call('POST', '/api/v1/namespaces', { body: namespace });
      assert.ok(status === 201 || status === 409);
    });
    after(() => target.close());

    metadataTests(api);
    conflictTests(api);
    validationTests(api);
    patchTests(api);
    deletionTests(api);
    listTests(api);
    watchTests(api);
    builtInTests(api);
    formTests(api);
  });
}
