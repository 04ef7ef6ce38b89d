/**
 * create, update, patch and delete, of objects, their status and their scale.
 *
 * Invariant: an answer goes out only after the commit that it speaks of.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { addWarnings, parseBody, parseObject, readBody, sendJson } from './http.ts';
import { type Lists, selectionOf } from './lists.ts';
import { metaOf, metaText, setAtPath, valueAtPath } from './meta.ts';
import type { DeleteOptions, DeleteResult, Objects, UpdateOptions, WriteResult } from './objects.ts';
import { applyPatch, patchTypeOf } from './patch.ts';
import type { Reader } from './read.ts';
import { type AnswerForm, dryRunOf, fieldValidationOf, propagationOf } from './request.ts';
import { apiVersionOf, type ResourceDefinition } from './resources.ts';
import { fieldError } from './schema/errors.ts';
import { isObject, type JsonObject, type JsonValue } from './schema/types.ts';
import * as status from './status.ts';
import type { Storage } from './storage.ts';

/** One request that is about one resource, with everything that its handler needs. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly definition: ResourceDefinition;
  readonly namespace: string | undefined;
  readonly name: string;
  readonly subresource: string | undefined;
  readonly query: URLSearchParams;
  readonly form: AnswerForm;
}

export class Writer {
  readonly #storage: Storage;
  readonly #objects: Objects;
  readonly #lists: Lists;
  readonly #reader: Reader;

  constructor(storage: Storage, objects: Objects, lists: Lists, reader: Reader) {
    this.#storage = storage;
    this.#objects = objects;
    this.#lists = lists;
    this.#reader = reader;
  }

  #optionsOf(exchange: Exchange): UpdateOptions {
    const { query, subresource } = exchange;
    return {
      dryRun: dryRunOf(query.getAll('dryRun')),
      fieldValidation: fieldValidationOf(query),
      ...(subresource === 'status' ? { subresource } : {}),
    };
  }

  async #answer(exchange: Exchange, result: WriteResult, code = 200): Promise<void> {
    await this.#storage.committed();
    addWarnings(exchange.response, result.warnings);
    this.#reader.sendObject(exchange.response, exchange.definition, result.body, exchange.form, exchange.query, code);
  }

  async create(exchange: Exchange): Promise<void> {
    const { definition, namespace = '', request } = exchange;
    const object = parseObject(await readBody(request), request.headers['content-type']);
    await this.#answer(exchange, this.#objects.create(definition, namespace, object, this.#optionsOf(exchange)), 201);
  }

  async update(exchange: Exchange): Promise<void> {
    const { definition, namespace = '', name, request } = exchange;
    const object = parseObject(await readBody(request), request.headers['content-type']);
    if (metaText(object, 'name') === '')
      throw status.badRequest('the name of the object must be given in metadata.name');
    const options = { ...this.#optionsOf(exchange), mustNameVersion: definition.custom };
    await this.#answer(
      exchange,
      this.#objects.update(definition, namespace, name, () => object, options),
    );
  }

  async patch(exchange: Exchange): Promise<void> {
    const { definition, namespace = '', name, request } = exchange;
    const type = patchTypeOf(request.headers['content-type'], definition.custom);
    const patch = parseBody(await readBody(request), 'application/json');
    const options = { ...this.#optionsOf(exchange), isPatch: true };
    const change = (current: JsonObject): JsonObject => applyPatch(current, patch, type);
    await this.#answer(exchange, this.#objects.update(definition, namespace, name, change, options));
  }

  async #deleteOptions(exchange: Exchange): Promise<DeleteOptions> {
    const { request, query } = exchange;
    const body = await readBody(request);
    const given: JsonObject = body.length === 0 ? {} : parseObject(body, request.headers['content-type']);
    const preconditions = isObject(given.preconditions) ? given.preconditions : {};
    const dryRun = [...query.getAll('dryRun'), ...(Array.isArray(given.dryRun) ? given.dryRun.map(String) : [])];
    const propagation = propagationOf(given.propagationPolicy ?? query.get('propagationPolicy'));
    const orphan = given.orphanDependents === true ? 'Orphan' : undefined;
    const chosen = propagation ?? orphan;
    return {
      dryRun: dryRunOf(dryRun),
      ...(typeof preconditions.uid === 'string' ? { uid: preconditions.uid } : {}),
      ...(typeof preconditions.resourceVersion === 'string' ? { resourceVersion: preconditions.resourceVersion } : {}),
      ...(chosen === undefined ? {} : { propagation: chosen }),
    };
  }

  async delete(exchange: Exchange): Promise<void> {
    const { definition, namespace = '', name, response } = exchange;
    const options = await this.#deleteOptions(exchange);
    const result = this.#objects.delete(definition, namespace, name, options);
    await this.#storage.committed();
    if (!result.gone) return this.#reader.sendObject(response, definition, result.body, exchange.form, exchange.query);
    sendJson(response, 200, JSON.stringify(this.#deleted(definition, name, result)));
  }

  #deleted(definition: ResourceDefinition, name: string, result: DeleteResult): JsonObject {
    const group = definition.group === '' ? {} : { group: definition.group };
    const details = { name, ...group, kind: definition.plural, uid: result.uid };
    return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Success', details };
  }

  async deleteCollection(exchange: Exchange): Promise<void> {
    const { definition, namespace, response, query } = exchange;
    const options = await this.#deleteOptions(exchange);
    const selection = selectionOf(definition, query, namespace);
    const version = this.#lists.currentVersion();
    const bodies: string[] = [];
    for await (const page of this.#lists.pages(definition, selection, ['', ''], version)) {
      for (const item of page.items) {
        try {
          bodies.push(this.#objects.delete(definition, item.namespace, item.name, options).body);
        } catch (error) {
          // Somebody else deleted it first.
          if (!(error instanceof status.ApiError && error.code === 404)) throw error;
        }
      }
    }
    await this.#storage.committed();
    const metadata = JSON.stringify({ resourceVersion: String(this.#storage.version) });
    const head = `{"kind":"${definition.listKind}","apiVersion":"${apiVersionOf(definition)}","metadata":${metadata}`;
    sendJson(response, 200, `${head},"items":[${bodies.join(',')}]}`);
  }

  #scaleOf(definition: ResourceDefinition, object: JsonObject): JsonObject {
    const { scale } = definition;
    if (scale === undefined) throw status.noSuchResource();
    const metadata = metaOf(object);
    const selector = scale.labelSelectorPath === undefined ? undefined : valueAtPath(object, scale.labelSelectorPath);
    return {
      kind: 'Scale',
      apiVersion: 'autoscaling/v1',
      metadata: {
        name: metadata.name,
        ...(metadata.namespace === undefined ? {} : { namespace: metadata.namespace }),
        uid: metadata.uid,
        resourceVersion: metadata.resourceVersion,
        creationTimestamp: metadata.creationTimestamp,
      },
      spec: { replicas: valueAtPath(object, scale.specReplicasPath) ?? 0 },
      status: {
        replicas: valueAtPath(object, scale.statusReplicasPath) ?? 0,
        ...(typeof selector === 'string' && selector !== '' ? { selector } : {}),
      },
    };
  }

  getScale(exchange: Exchange): void {
    const { definition, namespace = '', name, response, form } = exchange;
    this.#storage.settle();
    const stored = this.#objects.read(definition, namespace, name);
    const object = JSON.parse(this.#objects.bodyOf(definition, stored)) as JsonObject;
    sendJson(response, 200, JSON.stringify(this.#scaleOf(definition, object)), form === 'yaml');
  }

  #withScale(definition: ResourceDefinition, current: JsonObject, scale: JsonObject): JsonObject {
    const replicas: JsonValue | undefined = isObject(scale.spec) ? scale.spec.replicas : undefined;
    const name = metaText(current, 'name');
    if (typeof replicas !== 'number' || !Number.isInteger(replicas) || replicas < 0) {
      const text = 'must be a whole number, 0 or more';
      throw status.invalid('autoscaling', 'Scale', name, [
        fieldError('FieldValueInvalid', ['spec', 'replicas'], text, replicas ?? null),
      ]);
    }
    const metadata = metaOf(current);
    // The identity that the client names is checked with the object's own.
    for (const field of ['uid', 'resourceVersion']) {
      const given = metaText(scale, field);
      if (given === '') delete metadata[field];
      else metadata[field] = given;
    }
    setAtPath(current, definition.scale?.specReplicasPath ?? '', replicas);
    return current;
  }

  async writeScale(exchange: Exchange): Promise<void> {
    const { definition, namespace = '', name, request, response } = exchange;
    if (definition.scale === undefined) throw status.noSuchResource();
    const contentType = request.headers['content-type'];
    const isPatch = request.method === 'PATCH';
    const type = isPatch ? patchTypeOf(contentType, true) : undefined;
    const body = parseBody(await readBody(request), isPatch ? 'application/json' : contentType);
    const change = (current: JsonObject): JsonObject => {
      const before = this.#scaleOf(definition, current);
      const scale = type === undefined ? body : applyPatch(before, body, type);
      if (!isObject(scale)) throw status.badRequest('the body must be a Scale');
      return this.#withScale(definition, current, scale);
    };
    const options = { ...this.#optionsOf({ ...exchange, subresource: undefined }), isPatch: true };
    const result = this.#objects.update(definition, namespace, name, change, options);
    await this.#storage.committed();
    sendJson(response, 200, JSON.stringify(this.#scaleOf(definition, JSON.parse(result.body) as JsonObject)));
  }
}
