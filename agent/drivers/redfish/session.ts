/**
 * A BMC with a login: a Redfish session where there is one, else basic authentication.
 *
 * Invariants:
 * 1. At most one session is held; it is deleted when the client closes, because BMCs hold few and forget none early.
 * 2. The password is read from its file for each login, and stands in no message, log or argument.
 * 3. A login that was refused is not repeated at once: BMCs lock an account after a few.
 */
import { readFileSync } from 'node:fs';
import type { Clock } from '../../../controller/runtime/clock.ts';
import { BmcHttp, type HttpAnswer, type HttpOptions, type HttpRequest, NoAnswer, pathOnBmc } from './http.ts';

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

export interface ClientOptions extends HttpOptions {
  /** Called for each login. @throws Error with a sentence */
  readonly credentials: () => Credentials;
}

/** After a refused login; common lock-outs are 3 to 5 attempts a minute. */
const loginPauseMs = 60_000;
const serviceRoot = '/redfish/v1/';
const defaultSessions = '/redfish/v1/SessionService/Sessions';

/** The BMC did not let us in; nothing was asked of it. */
export class LoginRefused extends Error {
  override readonly name = 'LoginRefused';
}

/**
 * Credentials as JSON: `{"username": "...", "password": "..."}`.
 * @throws Error that names the file, and never what stands in it
 */
export function readCredentials(file: string): Credentials {
  let parsed: unknown;
  try {
    parsed = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new Error(`credentials file ${file} ${code === undefined ? 'is no JSON' : `cannot be read: ${code}`}`);
  }
  const { username, password } = (parsed ?? {}) as Partial<Credentials>;
  if (typeof username !== 'string' || typeof password !== 'string') {
    throw new Error(`credentials file ${file} must be a JSON object with the texts "username" and "password"`);
  }
  return { username, password };
}

export class RedfishClient {
  readonly #http: BmcHttp;
  readonly #credentials: () => Credentials;
  readonly #clock: Clock;
  #session: { readonly token: string; readonly path: string | undefined } | undefined;
  #sessionsPath: string | undefined;
  #sessionsWork = true;
  #refusedAt: number | undefined;

  constructor(options: ClientOptions) {
    this.#http = new BmcHttp(options);
    this.#credentials = options.credentials;
    this.#clock = options.clock;
  }

  get url(): string {
    return this.#http.url;
  }

  /**
   * Sends it with the login, which is renewed once when it has run out.
   * @throws NoAnswer, LoginRefused
   */
  async request(request: HttpRequest): Promise<HttpAnswer> {
    const answer = await this.#http.request(await this.#authorized(request));
    if (answer.status !== 401) {
      if (answer.status < 400) this.#refusedAt = undefined;
      return answer;
    }
    if (this.#session === undefined) throw this.#refused();
    // The session ran out, or the BMC started anew; 401 means that nothing was done.
    this.#session = undefined;
    const again = await this.#http.request(await this.#authorized(request));
    if (again.status === 401) throw this.#refused();
    return again;
  }

  #refused(): LoginRefused {
    this.#refusedAt = this.#clock.monotonic();
    return new LoginRefused('the BMC refuses the user name and password in the credentials file');
  }

  /** @throws LoginRefused, or NoAnswer that says that the request itself was not sent */
  async #authorized(request: HttpRequest): Promise<HttpRequest> {
    try {
      return await this.#withLogin(request);
    } catch (error) {
      if (error instanceof LoginRefused) throw error;
      throw new NoAnswer(error instanceof Error ? error.message : String(error), false, error);
    }
  }

  async #withLogin(request: HttpRequest): Promise<HttpRequest> {
    if (this.#refusedAt !== undefined && this.#clock.monotonic() - this.#refusedAt < loginPauseMs) {
      throw new LoginRefused('the BMC refused the login, which is not repeated for a minute');
    }
    if (this.#session === undefined && this.#sessionsWork) await this.#login();
    const { username, password } = this.#session === undefined ? this.#credentials() : { username: '', password: '' };
    const login =
      this.#session === undefined
        ? { authorization: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` }
        : { 'x-auth-token': this.#session.token };
    return { ...request, headers: { ...request.headers, ...login } };
  }

  async #login(): Promise<void> {
    this.#sessionsPath ??= await this.#findSessions();
    const { username, password } = this.#credentials();
    const { status, headers, body } = await this.#http.request({
      method: 'POST',
      path: this.#sessionsPath,
      body: { UserName: username, Password: password },
    });
    if (status === 401 || status === 403) throw this.#refused();
    const token = headers['x-auth-token'];
    if (status >= 200 && status < 300 && token !== undefined) {
      this.#session = { token, path: pathOnBmc(headers.location ?? body['@odata.id'], this.url) };
      return;
    }
    // No sessions at all, for good; or none free, or the BMC is starting: then basic authentication does for this once.
    if (status === 404 || status === 405 || status === 501) this.#sessionsWork = false;
  }

  async #findSessions(): Promise<string> {
    const { body } = await this.#http.request({ method: 'GET', path: serviceRoot });
    const links = body.Links as { Sessions?: { '@odata.id'?: unknown } } | undefined;
    return pathOnBmc(links?.Sessions?.['@odata.id'], this.url) ?? defaultSessions;
  }

  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    try {
      if (session?.path !== undefined) {
        const headers = { 'x-auth-token': session.token };
        await this.#http.request({ method: 'DELETE', path: session.path, headers });
      }
    } catch {
      // A session that cannot be deleted runs out.
    }
    await this.#http.close();
  }
}
