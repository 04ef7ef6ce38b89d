/**
 * Logging: what the rest of the operator sees of pino.
 *
 * Invariants:
 * 1. A field whose name is that of a secret is never written, down to three levels of nesting; credentials inside
 *    messages and error texts (bearer tokens, passwords in URLs, PEM private keys) are struck out.
 * 2. Logging never throws.
 */
import pino from 'pino';
import type { Clock } from './clock.ts';

export type LogLevel = 'debug' | 'info' | 'warn' | 'error' | 'silent';

/** `err` holds an Error; everything else is plain data. */
export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to every line. */
  child(fields: LogFields): Logger;
}

const secretFieldNames = [
  'token',
  'accessToken',
  'bearerToken',
  'password',
  'passphrase',
  'secret',
  'clientSecret',
  'authorization',
  'Authorization',
  'cookie',
  'privateKey',
  'clientKey',
  'clientKeyData',
  'client-key-data',
  'stringData',
  'userData',
];

const redactedPaths = secretFieldNames.flatMap((name) => {
  const step = name.includes('-') ? `["${name}"]` : `.${name}`;
  const top = name.includes('-') ? `["${name}"]` : name;
  return [top, `*${step}`, `*.*${step}`];
});

/** Strikes out what looks like a credential in free text. */
export function scrub(text: string): string {
  return text
    .replaceAll(/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g, '[private key]')
    .replaceAll(/\b(bearer|basic)\s+[\w.~+/=-]{8,}/gi, '$1 [redacted]')
    .replaceAll(/(\b[a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, '$1[redacted]@');
}

function describeError(value: unknown): unknown {
  if (!(value instanceof Error)) return typeof value === 'string' ? scrub(value) : value;
  return {
    type: value.name,
    message: scrub(value.message),
    ...(value.stack === undefined ? {} : { stack: scrub(value.stack) }),
    ...('reason' in value ? { reason: value.reason } : {}),
    ...(value.cause === undefined ? {} : { cause: describeCause(value.cause) }),
  };
}

function describeCause(cause: unknown): string {
  return scrub(cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause)).slice(0, 500);
}

function wrap(target: pino.Logger): Logger {
  const at =
    (level: 'debug' | 'info' | 'warn' | 'error') =>
    (message: string, fields?: LogFields): void => {
      target[level](fields ?? {}, scrub(message));
    };
  return {
    debug: at('debug'),
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    child: (fields) => wrap(target.child(fields)),
  };
}

export interface LoggerOptions {
  readonly level: LogLevel;
  readonly clock: Clock;
  /** Where lines go, each a JSON object. Default: standard error, so that standard output stays for the program's own. */
  readonly destination?: { write(line: string): void };
}

export function createLogger(options: LoggerOptions): Logger {
  const { clock } = options;
  const settings: pino.LoggerOptions = {
    level: options.level,
    base: null,
    messageKey: 'message',
    timestamp: () => `,"time":"${new Date(clock.now()).toISOString()}"`,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { err: describeError },
    redact: { paths: redactedPaths, censor: '[redacted]' },
  };
  return wrap(pino(settings, options.destination ?? pino.destination(2)));
}

/** Writes nothing. */
export const silentLogger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: () => {},
  child: () => silentLogger,
};
