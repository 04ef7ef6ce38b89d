/**
 * From what the network or the server said to the closed set of KubeErrors.
 *
 * Invariants:
 * 1. A 5xx answer to a change is `Unknown` (a server that lost its store answers 500 or 504 to writes that were stored),
 *    except 503, which says that the server did not take it.
 * 2. Messages are the server's, cut and with credentials struck out; never a part of what was sent.
 */
import type { Clock } from '../runtime/clock.ts';
import { scrub } from '../runtime/log.ts';
import { isJsonObject } from './json.ts';
import { KubeError, type KubeErrorReason } from './port.ts';

interface Sent {
  readonly method: string;
  readonly path: string;
  readonly changes: boolean;
  readonly contentType?: string;
}

const longestMessage = 2_048;

const reasonByStatus: Readonly<Record<number, KubeErrorReason>> = {
  400: 'Invalid',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  405: 'Invalid',
  406: 'Invalid',
  409: 'Conflict',
  410: 'Gone',
  413: 'Invalid',
  415: 'Invalid',
  422: 'Invalid',
  429: 'TooManyRequests',
  503: 'Unavailable',
};

function describe({ method, path }: Sent): string {
  return `${method} ${path.split('?')[0]}`;
}

/** The request got no answer. */
export function notAnswered(sent: Sent, started: boolean, cause: unknown): KubeError {
  const inDoubt = started && sent.changes;
  const code = cause instanceof Error && 'code' in cause ? ` (${cause.code})` : '';
  const why = scrub(cause instanceof Error ? cause.message : String(cause)).slice(0, longestMessage);
  const state = inDoubt ? 'was sent and not answered' : 'failed';
  return new KubeError(inDoubt ? 'Unknown' : 'Unavailable', `${describe(sent)} ${state}: ${why}${code}`);
}

/** `Retry-After` holds seconds or an HTTP date. */
function retryAfterMs(header: string | undefined, clock: Clock): number | undefined {
  if (header === undefined) return undefined;
  const seconds = Number(header);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
  const at = Date.parse(header);
  return Number.isNaN(at) ? undefined : Math.max(0, at - clock.now());
}

function parseStatus(body: Buffer): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(body.toString());
    return isJsonObject(parsed) ? parsed : {};
  } catch {
    return {};
  }
}

/** The reason of a Status object, as it comes in a body or inside a watch. */
function reasonOf(status: number, reason: unknown, changes: boolean): KubeErrorReason {
  if (status === 409 && reason === 'AlreadyExists') return 'AlreadyExists';
  if (reason === 'Expired' || reason === 'Gone') return 'Gone';
  const known = reasonByStatus[status];
  if (known !== undefined) return known;
  if (status >= 500) return changes ? 'Unknown' : 'Unavailable';
  return status >= 400 ? 'Invalid' : 'Unavailable';
}

/**
 * A 422 that says that the object is not as the patch expects it. kube-apiserver answers a JSON patch that does not apply
 * (a failed `test`, a path that is not there) with a 422 that blames no field, as validation always does; and a merge patch
 * with another uid with one that blames `metadata.uid`.
 */
function doesNotApply(sent: Sent, parsed: Record<string, unknown>): boolean {
  const details = isJsonObject(parsed.details) ? parsed.details : {};
  const causes = Array.isArray(details.causes) ? details.causes.filter(isJsonObject) : [];
  const fields = causes.map((cause) => cause.field).filter((field) => field !== undefined);
  if (fields.length === 0) return sent.contentType === 'application/json-patch+json';
  return fields.includes('metadata.uid');
}

export function errorFromResponse(
  sent: Sent,
  status: number,
  retryAfter: string | undefined,
  body: Buffer,
  clock: Clock,
): KubeError {
  const parsed = parseStatus(body);
  const reason =
    status === 422 && doesNotApply(sent, parsed) ? 'Conflict' : reasonOf(status, parsed.reason, sent.changes);
  const details = isJsonObject(parsed.details) ? parsed.details : {};
  const seconds = details.retryAfterSeconds;
  const waitMs = retryAfterMs(retryAfter, clock) ?? (typeof seconds === 'number' ? seconds * 1000 : undefined);
  const said = typeof parsed.message === 'string' ? scrub(parsed.message).slice(0, longestMessage) : '';
  return new KubeError(reason, said === '' ? `${describe(sent)} was answered with HTTP ${status}` : said, {
    status,
    ...(waitMs === undefined ? {} : { retryAfterMs: waitMs }),
  });
}

/** The Status object inside an ERROR event of a watch. */
export function errorFromWatch(object: unknown): KubeError {
  const status = isJsonObject(object) ? object : {};
  const code = typeof status.code === 'number' ? status.code : 500;
  const said = typeof status.message === 'string' ? scrub(status.message).slice(0, longestMessage) : '';
  const details = isJsonObject(status.details) ? status.details : {};
  const seconds = details.retryAfterSeconds;
  return new KubeError(reasonOf(code, status.reason, false), said || `the watch ended with HTTP ${code}`, {
    status: code,
    ...(typeof seconds === 'number' ? { retryAfterMs: seconds * 1000 } : {}),
  });
}
