/**
 * What the fixtures of vendors' BMCs share: a system that is served over HTTP, and the machine behind it.
 * Each fixture adds what its maker does otherwise, and says where that is written. None was recorded from a device by us.
 */
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

export type Json = Record<string, unknown>;

export interface Answer {
  readonly status: number;
  readonly body?: Json;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Asked {
  readonly method: string;
  readonly path: string;
  readonly ifMatch: string | undefined;
  readonly body: Json;
}

export interface BootState {
  enabled: 'Disabled' | 'Once' | 'Continuous';
  target: string;
  mode: 'UEFI' | 'Legacy';
}

export const refused = (status: number, messageId: string, message: string): Answer => ({
  status,
  body: {
    error: {
      code: 'Base.1.8.GeneralError',
      message: 'A general error has occurred. See ExtendedInfo for more information.',
      '@Message.ExtendedInfo': [{ MessageId: messageId, Message: message }],
    },
  },
});

export abstract class VendorBmc {
  power: 'On' | 'Off' = 'Off';
  readonly boot: BootState = { enabled: 'Disabled', target: 'None', mode: 'UEFI' };
  /** Where each start booted from, and in which mode, oldest first. */
  readonly boots: string[] = [];
  readonly asked: Asked[] = [];
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  url = '';

  abstract readonly systemId: string;
  /** Of the system: Manufacturer, Model and what else is this maker's own. */
  abstract readonly maker: Json;
  /** Of the service root. */
  readonly root: Json = {};
  readonly resetTypes: readonly string[] = ['On', 'ForceOff', 'GracefulShutdown', 'ForceRestart'];
  readonly targets: readonly string[] = ['None', 'Pxe', 'Cd', 'Hdd', 'BiosSetup', 'UefiHttp'];
  /** Where the disk and the network stand while nothing overrides them, first one first. */
  order: string[] = [];

  get systemPath(): string {
    return `/redfish/v1/Systems/${this.systemId}`;
  }

  /** `Boot` as this BMC shows it. */
  bootResource(): Json {
    return {
      BootSourceOverrideEnabled: this.boot.enabled,
      BootSourceOverrideTarget: this.boot.target,
      'BootSourceOverrideTarget@Redfish.AllowableValues': this.targets,
      BootSourceOverrideMode: this.boot.mode,
    };
  }

  system(): Json {
    return {
      '@odata.id': this.systemPath,
      Id: this.systemId,
      Name: 'System',
      UUID: '4C4C4544-0042-3510-8036-B4C04F4E3332',
      PowerState: this.power,
      ProcessorSummary: { Count: 2, CoreCount: 32 },
      MemorySummary: { TotalSystemMemoryGiB: 256 },
      Storage: { '@odata.id': `${this.systemPath}/Storage` },
      ...this.maker,
      Boot: this.bootResource(),
      Actions: {
        '#ComputerSystem.Reset': {
          target: `${this.systemPath}/Actions/ComputerSystem.Reset`,
          'ResetType@Redfish.AllowableValues': this.resetTypes,
        },
      },
    };
  }

  /** Resources besides the service root and the system, by path. */
  resources(): Record<string, Json> {
    const storage = `${this.systemPath}/Storage`;
    return {
      [storage]: { Members: [{ '@odata.id': `${storage}/0` }] },
      [`${storage}/0`]: { Id: '0', Drives: [{ '@odata.id': `${storage}/0/Drives/0` }] },
      [`${storage}/0/Drives/0`]: {
        Id: 'Disk.0',
        SerialNumber: 'PHYF0001 ',
        CapacityBytes: 480103981056,
        MediaType: 'SSD',
        Protocol: 'SATA',
      },
    };
  }

  etag(_path: string): string | undefined {
    return undefined;
  }

  /** A PATCH of Boot at a path. */
  abstract patchBoot(path: string, boot: Json, ifMatch: string | undefined): Answer;

  /** Takes what was sent of the override. */
  protected take(boot: Json): void {
    if (typeof boot.BootSourceOverrideTarget === 'string') this.boot.target = boot.BootSourceOverrideTarget;
    if (typeof boot.BootSourceOverrideEnabled === 'string') {
      this.boot.enabled = boot.BootSourceOverrideEnabled as BootState['enabled'];
    }
    if (boot.BootSourceOverrideMode === 'UEFI' || boot.BootSourceOverrideMode === 'Legacy') {
      this.boot.mode = boot.BootSourceOverrideMode;
    }
  }

  /** Answers a reset in the state that the machine is in; undefined lets it happen. */
  protected refusesReset(_type: string): Answer | undefined {
    return undefined;
  }

  /** The machine starts. */
  protected start(): void {
    const overridden = this.boot.enabled !== 'Disabled' && this.boot.target !== 'None';
    this.boots.push(`${overridden ? this.boot.target : (this.order[0] ?? 'Hdd')} ${this.boot.mode}`);
    if (this.boot.enabled === 'Once') this.boot.enabled = 'Disabled';
  }

  #reset(type: string): Answer {
    const answer = this.resetTypes.includes(type)
      ? this.refusesReset(type)
      : refused(400, 'Base.1.8.ActionParameterNotSupported', `${type} is not supported`);
    if (answer !== undefined) return answer;
    if (type === 'ForceOff' || type === 'GracefulShutdown') this.power = 'Off';
    else {
      if (type === 'ForceRestart' || this.power === 'Off') this.start();
      this.power = 'On';
    }
    return { status: 204 };
  }

  protected get(path: string): Answer {
    const link = (id: string): Json => ({ '@odata.id': id });
    const resources: Record<string, Json> = {
      '/redfish/v1': { Id: 'RootService', Systems: link('/redfish/v1/Systems'), ...this.root },
      '/redfish/v1/Systems': { Members: [link(this.systemPath)] },
      [this.systemPath]: this.system(),
      ...this.resources(),
    };
    const body = resources[path];
    const etag = this.etag(path);
    if (body === undefined) return refused(404, 'Base.1.8.ResourceMissingAtURI', `nothing at ${path}`);
    return { status: 200, body, headers: etag === undefined ? {} : { ETag: etag } };
  }

  protected handle({ method, path, ifMatch, body }: Asked): Answer {
    if (method === 'GET') return this.get(path);
    if (method === 'POST' && path.endsWith('/Actions/ComputerSystem.Reset')) return this.#reset(String(body.ResetType));
    if (method === 'PATCH') return this.patchBoot(path, (body.Boot ?? {}) as Json, ifMatch);
    return refused(405, 'Base.1.8.OperationNotAllowed', `${method} is not allowed`);
  }

  async listen(): Promise<this> {
    const server = createServer((request, response) => {
      readBody(request).then((body) => {
        const path = (request.url ?? '/').replace(/\/$/, '');
        const asked = { method: request.method ?? 'GET', path, ifMatch: request.headers['if-match'], body };
        if (asked.method !== 'GET') this.asked.push(asked);
        const { status, body: answer, headers = {} } = this.handle(asked);
        response.writeHead(status, { 'content-type': 'application/json', ...headers });
        response.end(answer === undefined ? undefined : JSON.stringify(answer));
      });
    });
    server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return this;
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#server?.close(() => resolve());
      for (const socket of this.#sockets) socket.destroy();
    });
  }
}

async function readBody(request: IncomingMessage): Promise<Json> {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text === '' ? {} : (JSON.parse(text) as Json);
}
