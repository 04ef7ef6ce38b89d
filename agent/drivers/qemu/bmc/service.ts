/**
 * The Redfish service of one lab machine without its transport: sessions, resets, boot overrides, tasks, and the misbehaviour
 * that real BMCs show.
 *
 * Invariants:
 * 1. Without misbehaviour what is shown is what the machine says, and an answer of success comes after the deed.
 * 2. Resets of a machine happen one after another.
 * 3. A deleted task does nothing any more, unless `deletesTasksOnly` says otherwise.
 */
import { createHash, timingSafeEqual } from 'node:crypto';
import type { Clock } from '../../../../controller/runtime/clock.ts';
import type { Random } from '../../../../controller/runtime/random.ts';
import { Turns } from '../../turns.ts';
import { type BmcHardware, type BmcMachine, type BootOverride, type Misbehaviour, noOverride } from './machine.ts';
import {
  collection,
  errorBody,
  type Json,
  overrideKinds,
  overrideTargets,
  type ResetType,
  resetPath,
  resetTypes,
  resourcesOf,
  root,
  sessionResource,
  sessionsPath,
  systemPath,
  type TaskState,
  taskResource,
  tasksPath,
} from './resources.ts';

/** Sessions at once; real BMCs hold 8 to 64. */
const mostSessions = 16;
/** Ended tasks that are still shown. */
const mostTasks = 32;

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

export interface ServiceOptions {
  readonly machine: BmcMachine;
  readonly hardware: BmcHardware;
  readonly credentials: Credentials;
  readonly misbehaviour: Misbehaviour;
  readonly clock: Clock;
  readonly random: Random;
}

export interface ServiceRequest {
  readonly method: string;
  /** Without query. */
  readonly path: string;
  readonly authorization: string | undefined;
  readonly token: string | undefined;
  readonly ifMatch: string | undefined;
  readonly body: unknown;
}

export interface ServiceAnswer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Json;
}

interface Task extends TaskState {
  state: TaskState['state'];
  message?: string;
  cancel(): void;
}

const isObject = (value: unknown): value is Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
const isOneOf = <T extends string>(values: readonly T[], value: unknown): value is T =>
  values.some((known) => known === value);
const refuse = (status: number, messageId: string, message: string): ServiceAnswer => ({
  status,
  body: errorBody(messageId, message),
});
const notFound = (path: string): ServiceAnswer => refuse(404, 'ResourceMissingAtURI', `there is nothing at ${path}`);
const etagOf = (body: Json): string =>
  `"${createHash('sha256').update(JSON.stringify(body)).digest('hex').slice(0, 16)}"`;

function sameText(a: string, b: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(a), digest(b));
}

export class RedfishService {
  readonly #options: ServiceOptions;
  readonly #sessions = new Map<string, string>();
  readonly #tasks = new Map<string, Task>();
  #nextId = 1;
  readonly #turns = new Turns();
  #transition: 'PoweringOn' | 'PoweringOff' | undefined;
  #shownPower: 'On' | 'Off';
  #staleSince: number | undefined;
  /** An override that the machine was not told. */
  #pretended: BootOverride | undefined;

  constructor(options: ServiceOptions) {
    this.#options = options;
    this.#shownPower = options.machine.power();
  }

  async handle(request: ServiceRequest): Promise<ServiceAnswer> {
    const path = request.path.length > 1 ? request.path.replace(/\/+$/, '') : request.path;
    const { method } = request;
    const open = method === 'GET' && ['/redfish', root, `${root}/odata`].includes(path);
    if (method === 'POST' && path === sessionsPath) return this.#login(request.body);
    if (!open && !this.#admits(request)) {
      return refuse(401, 'NoValidSession', 'log in with the credentials of this BMC');
    }
    const { failsWith } = this.#options.misbehaviour;
    if (!open && failsWith !== undefined) return refuse(failsWith, 'InternalError', 'the service has failed');
    if (method === 'GET') return this.#get(path);
    if (method === 'PATCH' && path === systemPath) return this.#patchSystem(request);
    if (method === 'POST' && path === resetPath) return this.#reset(request.body);
    if (method === 'DELETE') return this.#delete(path);
    return this.#resources().has(path)
      ? refuse(405, 'OperationNotAllowed', `${method} is not allowed at ${path}`)
      : notFound(path);
  }

  #admits({ authorization, token }: ServiceRequest): boolean {
    const { credentials, misbehaviour } = this.#options;
    if (misbehaviour.refusesCredentials === true) return false;
    if (token !== undefined) return [...this.#sessions.values()].some((known) => sameText(known, token));
    const basic = Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64');
    return authorization !== undefined && sameText(authorization, `Basic ${basic}`);
  }

  #login(body: unknown): ServiceAnswer {
    const { credentials, misbehaviour, random } = this.#options;
    const { UserName: username, Password: password } = isObject(body) ? body : {};
    const right =
      typeof username === 'string' &&
      typeof password === 'string' &&
      sameText(username, credentials.username) &&
      sameText(password, credentials.password);
    if (!right || misbehaviour.refusesCredentials === true) {
      return refuse(401, 'ResourceAtUriUnauthorized', 'wrong user name or password');
    }
    if (this.#sessions.size >= mostSessions) {
      return refuse(503, 'SessionLimitExceeded', `there are ${mostSessions} sessions already: delete one`);
    }
    const id = String(this.#nextId++);
    const token = `${random.uuid()}${random.uuid()}`;
    this.#sessions.set(id, token);
    return {
      status: 201,
      headers: { 'X-Auth-Token': token, Location: `${sessionsPath}/${id}` },
      body: sessionResource(id, username),
    };
  }

  #power(): 'On' | 'Off' | 'PoweringOn' | 'PoweringOff' {
    const { machine, misbehaviour, clock } = this.#options;
    const actual = machine.power();
    if (misbehaviour.staleMs === undefined) {
      this.#shownPower = actual;
      return this.#transition ?? actual;
    }
    if (actual === this.#shownPower) {
      this.#staleSince = undefined;
    } else {
      this.#staleSince ??= clock.monotonic();
      if (clock.monotonic() - this.#staleSince < misbehaviour.staleMs) return this.#shownPower;
      this.#shownPower = actual;
      this.#staleSince = undefined;
    }
    return this.#shownPower;
  }

  #resources(): Map<string, Json> {
    const { hardware, machine } = this.#options;
    return resourcesOf(hardware, { power: this.#power(), override: this.#pretended ?? machine.bootOverride });
  }

  #get(path: string): ServiceAnswer {
    if (path === sessionsPath) {
      const members = [...this.#sessions.keys()].map((id) => `${sessionsPath}/${id}`);
      return { status: 200, body: collection(path, 'SessionCollection', 'Sessions', members) };
    }
    if (path === tasksPath) {
      const members = [...this.#tasks.keys()].map((id) => `${tasksPath}/${id}`);
      return { status: 200, body: collection(path, 'TaskCollection', 'Tasks', members) };
    }
    const session = path.startsWith(`${sessionsPath}/`) ? path.slice(sessionsPath.length + 1) : undefined;
    if (session !== undefined && this.#sessions.has(session)) {
      return { status: 200, body: sessionResource(session, this.#options.credentials.username) };
    }
    const task = this.#tasks.get(path.split('/').at(-1) ?? '');
    if (task !== undefined && path === `${tasksPath}/${task.id}`) return { status: 200, body: taskResource(task) };
    if (task !== undefined && path === `${root}/TaskService/TaskMonitors/${task.id}`) {
      return { status: task.state === 'Running' ? 202 : 200, body: taskResource(task) };
    }
    const body = this.#resources().get(path);
    return body === undefined ? notFound(path) : { status: 200, headers: { ETag: etagOf(body) }, body };
  }

  #delete(path: string): ServiceAnswer {
    const id = path.split('/').at(-1) ?? '';
    if (path === `${sessionsPath}/${id}` && this.#sessions.delete(id)) return { status: 204 };
    const task = this.#tasks.get(id);
    const ofTask = path === `${tasksPath}/${id}` || path === `${root}/TaskService/TaskMonitors/${id}`;
    if (task === undefined || !ofTask) return notFound(path);
    if (this.#options.misbehaviour.deletesTasksOnly !== true) task.cancel();
    this.#tasks.delete(id);
    return { status: 204 };
  }

  async #patchSystem({ body, ifMatch }: ServiceRequest): Promise<ServiceAnswer> {
    const current = this.#get(systemPath);
    if (ifMatch !== undefined && ifMatch !== '*' && ifMatch !== current.headers?.ETag) {
      return refuse(412, 'PreconditionFailed', 'the resource has changed since its ETag was read');
    }
    const { Boot: boot, ...others } = isObject(body) ? body : {};
    const unknown = Object.keys(others)[0];
    if (unknown !== undefined || !isObject(boot)) {
      return refuse(400, 'PropertyNotWritable', `only Boot can be changed, not ${unknown ?? 'what was sent'}`);
    }
    const override = this.#overrideOf(boot);
    if ('status' in override) return override;
    return this.#carryOut(
      'PATCH',
      async () => this.#setOverride(override),
      () => this.#get(systemPath),
    );
  }

  /** The override that a Boot object asks for, or why it is refused. */
  #overrideOf(boot: Json): BootOverride | ServiceAnswer {
    const now = this.#pretended ?? this.#options.machine.bootOverride;
    const {
      BootSourceOverrideTarget: target = now.target,
      BootSourceOverrideEnabled: enabled = now.enabled === 'Disabled' ? 'Once' : now.enabled,
      BootSourceOverrideMode: mode = 'Legacy',
      ...others
    } = boot;
    const unknown = Object.keys(others)[0];
    if (unknown !== undefined) return refuse(400, 'PropertyUnknown', `Boot has no property ${unknown}`);
    const targets = overrideTargets(this.#options.hardware);
    if (!isOneOf(targets, target)) {
      return refuse(400, 'PropertyValueNotInList', `BootSourceOverrideTarget is one of ${targets.join(', ')}`);
    }
    if (!isOneOf(overrideKinds, enabled)) {
      return refuse(400, 'PropertyValueNotInList', `BootSourceOverrideEnabled is one of ${overrideKinds.join(', ')}`);
    }
    if (mode !== 'Legacy') return refuse(400, 'PropertyValueNotInList', 'BootSourceOverrideMode is Legacy here');
    return enabled === 'Disabled' || target === 'None' ? noOverride : { target, enabled };
  }

  #setOverride(override: BootOverride): void {
    const pretends = override.enabled === 'Once' && this.#options.misbehaviour.ignoresOnce === true;
    this.#pretended = pretends ? override : undefined;
    this.#options.machine.bootOverride = pretends ? noOverride : override;
  }

  #reset(body: unknown): Promise<ServiceAnswer> | ServiceAnswer {
    const type = isObject(body) ? body.ResetType : undefined;
    if (!isOneOf(resetTypes, type)) {
      return refuse(400, 'ActionParameterValueNotInList', `ResetType is one of ${resetTypes.join(', ')}`);
    }
    if (this.#options.misbehaviour.ignoresReset === true) return { status: 204 };
    return this.#carryOut(
      type,
      () => this.#perform(type),
      () => ({ status: 204 }),
    );
  }

  async #perform(type: ResetType): Promise<void> {
    const { machine, misbehaviour } = this.#options;
    const isOn = machine.power() === 'On';
    const starts = type === 'ForceRestart' || type === 'PowerCycle' || (!isOn && type !== 'ForceOff');
    this.#power();
    if (starts && type !== 'GracefulShutdown') {
      this.#pretended = undefined;
      if (misbehaviour.losesOverrideAtReset === true) machine.bootOverride = noOverride;
    }
    switch (type) {
      case 'On':
      case 'ForceOn':
        if (!isOn) await this.#during('PoweringOn', () => machine.on());
        return;
      case 'ForceOff':
        if (isOn) await this.#during('PoweringOff', () => machine.off());
        return;
      case 'GracefulShutdown':
        if (isOn) await machine.shutdown();
        return;
      case 'PushPowerButton':
        await (isOn ? machine.shutdown() : this.#during('PoweringOn', () => machine.on()));
        return;
      case 'ForceRestart':
        await (isOn ? machine.reset() : this.#during('PoweringOn', () => machine.on()));
        return;
      case 'PowerCycle':
        if (isOn) await this.#during('PoweringOff', () => machine.off());
        await this.#during('PoweringOn', () => machine.on());
    }
  }

  async #during(transition: 'PoweringOn' | 'PoweringOff', deed: () => Promise<void>): Promise<void> {
    this.#transition = transition;
    try {
      await deed();
    } finally {
      this.#transition = undefined;
    }
  }

  /** Does it and answers, or answers with a task that does it later. */
  async #carryOut(what: string, deed: () => Promise<void>, success: () => ServiceAnswer): Promise<ServiceAnswer> {
    const { deferMs } = this.#options.misbehaviour;
    if (deferMs !== undefined) return this.#defer(deed, deferMs);
    try {
      await this.#turns.take(deed);
    } catch (error) {
      return refuse(500, 'GeneralError', `${what} failed: ${error instanceof Error ? error.message : error}`);
    }
    return success();
  }

  #defer(deed: () => Promise<void>, deferMs: number): ServiceAnswer {
    const id = String(this.#nextId++);
    const cancelTimer = this.#options.clock.setTimer(deferMs, () => {
      this.#turns.take(deed).then(
        () => {
          task.state = 'Completed';
        },
        (error: unknown) => {
          task.state = 'Exception';
          task.message = error instanceof Error ? error.message : String(error);
        },
      );
    });
    const task: Task = { id, state: 'Running', cancel: cancelTimer };
    this.#tasks.set(id, task);
    const ended = [...this.#tasks.values()].filter(({ state }) => state !== 'Running');
    for (const old of ended.slice(0, Math.max(0, ended.length - mostTasks))) this.#tasks.delete(old.id);
    return {
      status: 202,
      headers: { Location: `${root}/TaskService/TaskMonitors/${id}` },
      body: taskResource(task),
    };
  }

  close(): void {
    for (const task of this.#tasks.values()) task.cancel();
  }
}
