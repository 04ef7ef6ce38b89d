/**
 * From a request to its handler.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Logger } from '../runtime/log.ts';
import { discoveryDocuments, reviewResources } from './discovery.ts';
import { parseObject, readBody, refuseBody, send, sendError, sendJson } from './http.ts';
import { openApiDocuments, openApiV2Accept, openApiV2ContentType, openApiV2Protobuf } from './openapi.ts';
import type { Reader } from './read.ts';
import { isTrue, negotiate, parseResourcePath, type ResourcePath } from './request.ts';
import type { ResourceDefinition, ResourceRegistry } from './resources.ts';
import type { JsonObject } from './schema/types.ts';
import * as status from './status.ts';
import { storageTrouble } from './storage.ts';
import type { Exchange, Writer } from './write.ts';

/** Who asks: from the client's certificate or token. */
export interface Identity {
  readonly user: string;
  readonly groups: readonly string[];
}

/** What may be asked without an identity. */
const publicPaths = new Set(['/healthz', '/livez', '/readyz', '/version']);

const podsAreElsewhere =
  'this is the embedded API server of bitvisor-operator: it keeps the operator’s objects and runs no pods, nodes or workloads';
/** Kinds of Kubernetes that people may look for here. */
const workloads = new Set(
  'pods nodes services deployments replicasets statefulsets daemonsets jobs cronjobs persistentvolumes'.split(' '),
);

export class Router {
  readonly #registry: ResourceRegistry;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #log: Logger | undefined;
  readonly #documents: Map<string, JsonObject>;
  readonly #openApi: Map<string, string>;

  constructor(registry: ResourceRegistry, reader: Reader, writer: Writer, log: Logger | undefined) {
    this.#registry = registry;
    this.#reader = reader;
    this.#writer = writer;
    this.#log = log;
    this.#documents = discoveryDocuments(registry);
    this.#openApi = openApiDocuments(registry);
  }

  /** Answers a request; never rejects. */
  async handle(request: IncomingMessage, response: ServerResponse, identity: Identity | undefined): Promise<void> {
    try {
      await this.#route(request, response, identity);
    } catch (error) {
      this.#fail(request, response, error);
    }
  }

  #fail(request: IncomingMessage, response: ServerResponse, error: unknown): void {
    if (response.headersSent) {
      // Half an answer must not look like a whole one.
      response.destroy();
      return;
    }
    // A body that was not read must not be taken for the next request.
    if (!request.complete) response.setHeader('connection', 'close');
    if (error instanceof status.ApiError) {
      if (error.code === 413 && !request.complete) refuseBody(request, response, error);
      else sendError(response, error);
      return;
    }
    if (request.destroyed && !request.complete) return;
    this.#log?.error('a request failed', { method: request.method, path: request.url?.slice(0, 200), err: error });
    const why = storageTrouble(error) ?? 'see the log of the API server';
    sendError(response, new status.ApiError(500, 'InternalError', `Internal error occurred: ${why}`));
  }

  async #route(request: IncomingMessage, response: ServerResponse, identity: Identity | undefined): Promise<void> {
    const url = new URL(request.url ?? '/', 'https://localhost');
    const path = url.pathname.length > 1 ? url.pathname.replace(/\/+$/, '') : url.pathname;
    if (identity === undefined && !publicPaths.has(path)) {
      throw new status.ApiError(401, 'Unauthorized', 'Unauthorized');
    }
    if (path === '/healthz' || path === '/livez' || path === '/readyz') return send(response, 200, 'text/plain', 'ok');
    const openApi = this.#openApi.get(path);
    if (openApi !== undefined) return this.#sendOpenApi(request, response, path, openApi);
    const document = this.#documents.get(path);
    if (document !== undefined) {
      if (request.method !== 'GET')
        throw status.methodNotAllowed('the server does not allow this method on the requested resource');
      return sendJson(response, 200, JSON.stringify(document), negotiate(request.headers.accept) === 'yaml');
    }
    const resource = parseResourcePath(path);
    if (resource === undefined) throw status.noSuchResource();
    const review = reviewResources[`${resource.group}/${resource.version}`]?.[resource.plural];
    if (review !== undefined && identity !== undefined) return this.#review(request, response, review, identity);
    await this.#resource(request, response, resource, url.searchParams);
  }

  #sendOpenApi(request: IncomingMessage, response: ServerResponse, path: string, text: string): void {
    const accept = request.headers.accept ?? '';
    if (path === '/openapi/v2' && accept.includes(openApiV2Accept)) {
      send(response, 200, openApiV2ContentType, openApiV2Protobuf());
      return;
    }
    // For v3 kubectl asks for protobuf first and takes JSON.
    if (accept !== '' && !/json|\*\/\*|application\/\*/.test(accept)) {
      throw new status.ApiError(406, 'NotAcceptable', `${path} is served as application/json only`);
    }
    send(response, 200, 'application/json', text);
  }

  /** Everybody who can connect is the administrator of this one machine; reviews say so. */
  async #review(request: IncomingMessage, response: ServerResponse, kind: string, identity: Identity): Promise<void> {
    if (request.method !== 'POST') throw status.methodNotAllowed('reviews are created, never read');
    const review = parseObject(await readBody(request), request.headers['content-type']);
    const everything = { verbs: ['*'], apiGroups: ['*'], resources: ['*'] };
    const answers: Record<string, JsonObject> = {
      SelfSubjectAccessReview: {
        allowed: true,
        reason: 'the embedded API server has no roles: every identity may do everything',
      },
      SelfSubjectRulesReview: {
        resourceRules: [everything],
        nonResourceRules: [{ verbs: ['*'], nonResourceURLs: ['*'] }],
        incomplete: false,
      },
      SelfSubjectReview: { userInfo: { username: identity.user, groups: [...identity.groups] } },
    };
    sendJson(response, 201, JSON.stringify({ ...review, status: answers[kind] }));
  }

  #find(resource: ResourcePath): ResourceDefinition {
    const definition = this.#registry.find(resource.group, resource.version, resource.plural);
    if (definition === undefined) {
      if (!workloads.has(resource.plural)) throw status.noSuchResource();
      throw new status.ApiError(
        404,
        'NotFound',
        `the server could not find the requested resource (${podsAreElsewhere})`,
        { details: {} },
      );
    }
    if (!definition.namespaced && resource.namespace !== undefined) throw status.noSuchResource();
    if (definition.namespaced && resource.namespace === undefined && resource.name !== undefined)
      throw status.noSuchResource();
    return definition;
  }

  async #resource(
    request: IncomingMessage,
    response: ServerResponse,
    path: ResourcePath,
    query: URLSearchParams,
  ): Promise<void> {
    const definition = this.#find(path);
    const { method = 'GET' } = request;
    if (method !== 'GET' && method !== 'HEAD' && definition.readOnly !== undefined) {
      throw status.methodNotAllowed(
        `${status.qualifiedResource(definition)} cannot be written: ${definition.readOnly}`,
      );
    }
    const exchange: Exchange = {
      request,
      response,
      definition,
      namespace: path.namespace,
      name: path.name ?? '',
      subresource: path.subresource,
      query,
      form: negotiate(request.headers.accept),
    };
    if (path.name === undefined) return this.#collection(method, exchange);
    if (path.subresource === 'scale' && definition.scale !== undefined) return this.#scale(method, exchange);
    const isStatus = path.subresource === 'status' && definition.hasStatus;
    if (path.subresource !== undefined && !isStatus) throw status.noSuchResource();
    return this.#single(method, exchange, isStatus);
  }

  async #collection(method: string, exchange: Exchange): Promise<void> {
    const { response, definition, namespace, form, query } = exchange;
    if (method === 'GET') {
      if (isTrue(query.get('watch'))) return this.#reader.watch(response, definition, namespace, form, query);
      return this.#reader.list(response, definition, namespace, form, query);
    }
    const reachable = !definition.namespaced || namespace !== undefined;
    if (method === 'POST' && reachable) return this.#writer.create(exchange);
    if (method === 'DELETE' && reachable) return this.#writer.deleteCollection(exchange);
    throw status.methodNotAllowed('the server does not allow this method on the requested resource');
  }

  async #single(method: string, exchange: Exchange, isStatus: boolean): Promise<void> {
    const { response, definition, namespace = '', name, form, query } = exchange;
    if (method === 'GET' || method === 'HEAD') {
      if (isTrue(query.get('watch')) && !isStatus) {
        query.append('fieldSelector', [query.get('fieldSelector'), `metadata.name=${name}`].filter(Boolean).join(','));
        return this.#reader.watch(response, definition, exchange.namespace, form, query);
      }
      return this.#reader.get(response, definition, namespace, name, form, query);
    }
    if (method === 'PUT') return this.#writer.update(exchange);
    if (method === 'PATCH') return this.#writer.patch(exchange);
    if (method === 'DELETE' && !isStatus) return this.#writer.delete(exchange);
    throw status.methodNotAllowed('the server does not allow this method on the requested resource');
  }

  async #scale(method: string, exchange: Exchange): Promise<void> {
    if (method === 'GET') return this.#writer.getScale(exchange);
    if (method === 'PUT' || method === 'PATCH') return this.#writer.writeScale(exchange);
    throw status.methodNotAllowed('the server does not allow this method on the requested resource');
  }
}
