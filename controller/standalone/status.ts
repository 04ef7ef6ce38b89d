/**
 * Failures as Kubernetes reports them: a `metav1.Status` with the reason, code and wording that clients and kubectl know.
 */
import { formatInvalid } from './schema/errors.ts';
import type { FieldError, JsonObject } from './schema/types.ts';

/** What a failure is about; `kind` is the plural in paths, or the kind for validation errors, as the real server has it. */
export interface StatusDetails {
  name?: string;
  group?: string;
  kind?: string;
  uid?: string;
  causes?: { reason?: string; message: string; field?: string }[];
  retryAfterSeconds?: number;
}

export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly code: number;
  readonly reason: string;
  readonly details: StatusDetails | undefined;
  /** Set on the list metadata of a 410, so that a client may go on with an inconsistent list. */
  readonly continueToken: string | undefined;
  constructor(
    code: number,
    reason: string,
    message: string,
    options: { details?: StatusDetails; continueToken?: string; cause?: unknown } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.reason = reason;
    this.details = options.details;
    this.continueToken = options.continueToken;
  }

  toStatus(): JsonObject {
    const status: JsonObject = {
      kind: 'Status',
      apiVersion: 'v1',
      metadata: this.continueToken === undefined ? {} : { continue: this.continueToken },
      status: 'Failure',
      message: this.message,
      reason: this.reason,
      ...(this.details === undefined ? {} : { details: this.details as unknown as JsonObject }),
      code: this.code,
    };
    return status;
  }
}

/** What names a resource in messages: its plural and group. */
export interface ResourceName {
  readonly plural: string;
  readonly group: string;
}

/** `nodeallocations.bitvisor.io`, or `configmaps` for the core group. */
export function qualifiedResource(resource: ResourceName): string {
  return resource.group === '' ? resource.plural : `${resource.plural}.${resource.group}`;
}

function about(resource: ResourceName, name: string): StatusDetails {
  return { name, ...(resource.group === '' ? {} : { group: resource.group }), kind: resource.plural };
}

export function notFound(resource: ResourceName, name: string): ApiError {
  return new ApiError(404, 'NotFound', `${qualifiedResource(resource)} ${JSON.stringify(name)} not found`, {
    details: about(resource, name),
  });
}

/** A path that no resource of this server answers to. */
export function noSuchResource(): ApiError {
  return new ApiError(404, 'NotFound', 'the server could not find the requested resource', { details: {} });
}

export function alreadyExists(resource: ResourceName, name: string): ApiError {
  return new ApiError(409, 'AlreadyExists', `${qualifiedResource(resource)} ${JSON.stringify(name)} already exists`, {
    details: about(resource, name),
  });
}

export function conflict(resource: ResourceName, name: string, why: string): ApiError {
  const message = `Operation cannot be fulfilled on ${qualifiedResource(resource)} ${JSON.stringify(name)}: ${why}`;
  return new ApiError(409, 'Conflict', message, { details: about(resource, name) });
}

export const modifiedMeanwhile =
  'the object has been modified; please apply your changes to the latest version and try again';

export function badRequest(message: string): ApiError {
  return new ApiError(400, 'BadRequest', message);
}

export function forbidden(
  resource: ResourceName,
  name: string,
  why: string,
  causes?: StatusDetails['causes'],
): ApiError {
  const quoted = name === '' ? '' : ` ${JSON.stringify(name)}`;
  return new ApiError(403, 'Forbidden', `${qualifiedResource(resource)}${quoted} is forbidden: ${why}`, {
    details: { ...about(resource, name), ...(causes === undefined ? {} : { causes }) },
  });
}

export function methodNotAllowed(message: string): ApiError {
  return new ApiError(405, 'MethodNotAllowed', message, { details: {} });
}

export function unsupportedMediaType(message: string): ApiError {
  return new ApiError(415, 'UnsupportedMediaType', message);
}

export function expired(message: string, continueToken?: string): ApiError {
  return new ApiError(410, 'Expired', message, continueToken === undefined ? {} : { continueToken });
}

/** A `422` with one cause per field error. */
export function invalid(group: string, kind: string, name: string, errors: readonly FieldError[]): ApiError {
  const qualified = group === '' ? kind : `${kind}.${group}`;
  return new ApiError(422, 'Invalid', formatInvalid(qualified, name, errors), {
    details: {
      name,
      ...(group === '' ? {} : { group }),
      kind,
      causes: errors.map((error) => ({
        reason: error.type,
        message: error.message,
        field: error.path === '' ? '<nil>' : error.path,
      })),
    },
  });
}
