/**
 * What a machine of the lab booted, and the agent's hand in it: answers its network boot, mediates its disk, speaks with the trusted image.
 *
 * Invariants:
 * 1. No instruction of a guest runs before the control port's cable is pulled: until then its disk is empty.
 * 2. A valid map of the plan's epoch is kept, whatever `start` says; without one `Keep` fails and nothing is erased. Once a guest was
 *    started under a plan it is as if the plan said `Keep`.
 * 3. Everything known belongs to one start of the machine (`bootId`), and is stored before the machine can act on it; an agent that starts
 *    again finds it, and the block graph decides what is true of it.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Failure, NodeObservation } from '../../../controller/api/protocol.generated.ts';
import type { Clock } from '../../../controller/runtime/clock.ts';
import type { BootAnswer, BootFile, BootHandler } from '../boot/boot-server.ts';
import { readJsonFile, writeJsonFile } from '../boot/files.ts';
import { StartPace } from '../boot/start-pace.ts';
import { askAgainScript, type TrustedImage, type TrustedSide, trustedFile } from '../boot/trusted-boot.ts';
import type { Change, Serving, VmmPlan, VmmReading } from '../port.ts';
import { Telling, Turns } from '../turns.ts';
import { Attendant } from './attendant.ts';
import type { QemuMachine } from './machine.ts';
import { type ExportPlace, Mediator } from './mediator.ts';
import { bootPort, controlAddress, controlPortAddress, dataAddress } from './network.ts';
import { QmpError } from './qmp.ts';
import { macAddress } from './shape.ts';
import { failureOf, prepareTarget, writeTenantData } from './target.ts';

export interface BootedNodeOptions {
  readonly machine: QemuMachine;
  readonly clock: Clock;
  readonly serving: () => Serving;
  /** Where the image of this digest is exported to the node; undefined while it is not. */
  readonly place: (digest: string) => ExportPlace | undefined;
  /** Of the image that is exported to the node. */
  readonly readImage: (offset: number, length: number) => Promise<Buffer>;
  readonly trustedImage: TrustedImage;
  readonly trusted: TrustedSide;
  readonly changed: () => void;
  readonly onError: (error: unknown) => void;
}

/** Firmware: it looks for something to boot, or found nothing. Bare: its own disk, no hypervisor. */
type Boot =
  | { readonly kind: 'Firmware' | 'Bare' | 'Trusted'; readonly bootId: string }
  | { readonly kind: 'Vmm'; readonly bootId: string; readonly plan: VmmPlan; readonly isRunning: boolean };

interface Kept {
  readonly plan?: VmmPlan;
  readonly starts: { readonly epoch: number; readonly count: number };
  readonly boot: Boot;
}

const nothing: NodeObservation['copy'] = { totalBytes: 0, localBytes: 0, flushed: false, inFlight: 0, map: 'None' };
/** Longer than a busy QEMU takes for an answer, so that what was asked before is not what is read. */
const askAgainMs = 1_000;
const leavePatienceMs = 120_000;

/**
 * The disk appears a while later, after the cable is pulled: until then there is nothing to boot on it. It asks again only where the cable is
 * still in after some time: without it a question takes iPXE minutes, in which the disk is long there.
 * @param drive number of the BIOS
 */
function waitForDisk(drive: number, url: string): string {
  const attempt = `sanboot --no-describe --drive 0x${drive.toString(16)} || sleep 1\n`;
  // net0 is the data port: the order is that of the slots.
  return `:disk\n${attempt.repeat(10)}iflinkwait --timeout 100 net1 && chain --replace --autofree ${url} ||\ngoto disk\n`;
}

export class BootedNode implements BootHandler {
  readonly mediator: Mediator;
  readonly #options: BootedNodeOptions;
  readonly #attendant: Attendant;
  #kept: Kept;
  /** Of the trusted image that this machine was given last. */
  #trustedBootId: string | undefined;
  #failure: { readonly epoch: number; readonly failure: Failure } | undefined;
  #change: Change | undefined;
  /** Of an agent that starts again, until the block graph was read. */
  #isUnsure = false;
  readonly #turns = new Turns();
  readonly #pace: StartPace;
  readonly #telling: Telling;
  #isClosed = false;

  constructor(options: BootedNodeOptions) {
    const { machine, clock } = options;
    this.#options = options;
    this.#telling = new Telling(clock, () => options.changed());
    this.#pace = new StartPace(clock);
    this.mediator = new Mediator(machine, clock);
    this.#attendant = new Attendant({
      mediator: this.mediator,
      clock,
      changed: () => this.#telling.tell(),
      inTurn: (work) => this.#turns.take(work),
      onFailed: (message) => this.#fail(failureOf('DiskFailed', message, false)),
      onError: options.onError,
    });
    this.#kept = readJsonFile<Kept>(this.#path) ?? {
      starts: { epoch: 0, count: 0 },
      boot: { kind: 'Firmware', bootId: '' },
    };
    machine.onChange((what) => this.#begin(what === 'Started'));
  }

  get #path(): string {
    return join(this.#options.machine.spec.directory, 'booted.json');
  }

  #keep(changed: Partial<Kept>): void {
    this.#kept = { ...this.#kept, ...changed };
    writeJsonFile(this.#path, this.#kept);
  }

  #fail(failure: Failure): void {
    const { boot, plan } = this.#kept;
    this.#failure = { failure, epoch: (boot.kind === 'Vmm' ? boot.plan : plan)?.epoch ?? 0 };
    this.#telling.tell();
  }

  /** Power came or went. */
  #begin(isOn: boolean): void {
    this.#end(isOn);
    if (isOn) this.#forgetFailure();
  }

  #forgetFailure(): void {
    if (this.#failure === undefined) return;
    this.#failure = undefined;
    this.#telling.tell();
  }

  /** What was known of the last boot is over. Stored where that is news. */
  #end(isOn: boolean): void {
    const { machine } = this.#options;
    this.#attendant.stop();
    this.#trustedBootId = undefined;
    this.#options.trusted.end(machine.spec.name);
    const wasUnsure = this.#isUnsure;
    this.#isUnsure = false;
    const kind = isOn && machine.bootedFrom === 'Disk' ? 'Bare' : 'Firmware';
    const bootId = isOn ? machine.bootId : '';
    const { boot } = this.#kept;
    const isNews = boot.kind !== kind || boot.bootId !== bootId;
    if (isNews) this.#keep({ boot: { kind, bootId } });
    if (isNews || wasUnsure) this.#telling.tell();
  }

  /** Takes up a machine that runs since before this agent. */
  async attach(): Promise<void> {
    const { machine } = this.#options;
    const { boot } = this.#kept;
    if (machine.power() === 'Off' || boot.bootId !== machine.bootId) {
      this.#begin(machine.power() === 'On');
      return;
    }
    if (boot.kind !== 'Vmm') return;
    this.#isUnsure = true;
    this.#turns.take(() => this.#lookAgain()).catch(this.#options.onError);
  }

  async #lookAgain(): Promise<void> {
    const { boot } = this.#kept;
    if (boot.kind !== 'Vmm' || this.#isClosed) return;
    try {
      const { kind } = await this.mediator.graph(boot.plan.disk);
      if (kind === 'Plain') this.#keep({ boot: { kind: 'Bare', bootId: boot.bootId } });
      else if (kind === 'Empty') await this.#release(boot);
      else this.#attend(boot.plan);
      this.#isUnsure = false;
      this.#telling.tell();
    } catch (error) {
      this.#options.onError(error);
      this.#options.clock.setTimer(askAgainMs, () => this.#turns.take(() => this.#lookAgain()));
    }
  }

  // What the boot server asks.

  boot(): Promise<BootAnswer> {
    return this.#turns.take(async () => {
      const { machine, serving } = this.#options;
      const isTooOften = serving() !== 'Nothing' && !this.#pace.take();
      this.#end(true);
      if (!isTooOften) this.#forgetFailure();
      for (const disk of machine.spec.shape.disks) await this.mediator.hide(disk.name);
      const what = isTooOften ? 'Nothing' : serving();
      if (what === 'Trusted') return this.#startTrusted();
      const script = what === 'Vmm' ? await this.#startVmm() : undefined;
      return script ?? this.#nothing(isTooOften ? 'asked too often' : 'nothing to boot');
    });
  }

  get #server(): string {
    return `http://${controlAddress(this.#options.machine.spec.index)}:${bootPort}`;
  }

  /** A machine that found nothing to boot keeps asking. */
  #nothing(why: string): BootAnswer {
    return { script: askAgainScript(this.#server, this.#failure?.failure.code ?? why) };
  }

  async #startTrusted(): Promise<BootAnswer> {
    const { machine, trusted } = this.#options;
    for (const disk of machine.spec.shape.disks) await this.mediator.openPlain(disk.name);
    const { name, index } = machine.spec;
    const { kernelArguments = [] } = this.#options.trustedImage;
    const { bootId, script } = trusted.begin(name, {
      server: this.#server,
      control: macAddress(index, 'Control'),
      address: `${controlPortAddress(index)}/24`,
      // QEMU without KVM on a busy host looks to the kernel as if its timer did not work.
      kernelArguments: ['no_timer_check', ...kernelArguments],
    });
    this.#trustedBootId = bootId;
    this.#keep({ boot: { kind: 'Trusted', bootId: machine.bootId } });
    return { script };
  }

  /** @returns undefined when it cannot be, and why is in `#failure` */
  async #startVmm(): Promise<BootAnswer | undefined> {
    const { machine, readImage } = this.#options;
    const { plan, starts } = this.#kept;
    if (plan === undefined) {
      this.#fail(failureOf('VmmFailed', 'the boot server has no plan for this machine'));
      return undefined;
    }
    const hasRun = starts.epoch === plan.epoch;
    const place = this.#options.place(plan.environment.image.sha256);
    const failure = await prepareTarget(machine.spec, plan, hasRun, place);
    if (failure !== undefined) {
      this.#fail(failure);
      return undefined;
    }
    for (const { name } of machine.spec.shape.disks) if (name !== plan.disk) await this.mediator.openPlain(name);
    try {
      await this.mediator.prepare(plan.disk, place);
    } catch (error) {
      this.#fail(failureOf('ImageUnavailable', `the image cannot be read: ${(error as Error).message}`));
      return undefined;
    }
    try {
      // Once: what the guest makes of it later is its own.
      if (!hasRun) await writeTenantData(this.mediator, readImage, plan);
    } catch (error) {
      this.#fail(failureOf('VmmFailed', (error as Error).message, false));
      return undefined;
    }
    const boot = { kind: 'Vmm', bootId: machine.bootId, plan, isRunning: false } as const;
    this.#keep({ boot });
    const drive = 0x80 + machine.spec.shape.disks.findIndex(({ name }) => name === plan.disk);
    return {
      script: waitForDisk(drive, `${this.#server}/boot.ipxe`),
      onTaken: () => {
        this.#turns
          .take(async () => {
            if (this.#kept.boot.kind === 'Vmm' && this.#kept.boot.bootId === boot.bootId) await this.#release(boot);
          })
          .catch(this.#options.onError);
      },
    };
  }

  /** Pulls the cable of the control port, then lets the guest have its disk. */
  async #release(boot: Extract<Boot, { kind: 'Vmm' }>): Promise<void> {
    const { plan } = boot;
    await this.mediator.setControlLink(false);
    const { starts } = this.#kept;
    const count = starts.epoch === plan.epoch ? starts.count + 1 : 1;
    this.#keep({ starts: { epoch: plan.epoch, count }, boot: { ...boot, isRunning: true } });
    await this.mediator.expose(plan.disk);
    this.#attend(plan);
    this.#telling.tell();
  }

  #attend(plan: VmmPlan): void {
    this.#attendant.start({ disk: plan.disk, yielding: plan.environment.install.yield }, plan.maxRateBytes);
  }

  file(bootId: string, name: string): BootFile | undefined {
    return bootId === this.#trustedBootId ? trustedFile(this.#options.trustedImage, name) : undefined;
  }

  async trusted(request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    const isOwn = request.url?.startsWith(`/trusted/${this.#trustedBootId}/`) === true;
    return isOwn && this.#options.trusted.handle(request, response);
  }

  // What the agent asks.

  plan(plan: VmmPlan | undefined): void {
    const { plan: _before, ...rest } = this.#kept;
    this.#kept = plan === undefined ? rest : { ...rest, plan };
    writeJsonFile(this.#path, this.#kept);
  }

  throttle(maxRateBytes: number): void {
    this.#attendant.throttle(maxRateBytes);
  }

  devirtualize(token: string): void {
    this.#ask(token, (end) => this.#turns.take(() => this.#leave(end)));
  }

  /** @param work ends when the trusted image's boot does, whatever happens */
  inTrusted(token: string, work: (trusted: TrustedSide, node: string) => Promise<void>): void {
    const { trusted, machine } = this.#options;
    this.#ask(token, (end) => work(trusted, machine.spec.name).then(() => end(undefined)));
  }

  #ask(token: string, begin: (end: (error: string | undefined) => void) => Promise<void>): void {
    this.#change = { token, status: 'Pending' };
    const end = (error: string | undefined): void => {
      if (this.#change?.token !== token || this.#change.status !== 'Pending') return;
      this.#change = error === undefined ? { token, status: 'Done' } : { token, status: 'Error', error };
      this.#telling.tell();
    };
    begin(end).catch((error: unknown) => end((error as Error).message));
    this.#telling.tell();
  }

  /** Asks again until QEMU has answered: an Error must mean that nothing follows. */
  async #leave(end: (error: string | undefined) => void): Promise<void> {
    const { boot } = this.#kept;
    if (boot.kind === 'Bare') return end(undefined);
    if (boot.kind !== 'Vmm' || !boot.isRunning) return end('no hypervisor with a running guest');
    const { clock, machine } = this.#options;
    const until = clock.monotonic() + leavePatienceMs;
    this.#attendant.stop();
    for (;;) {
      try {
        await this.mediator.leave(boot.plan.disk);
        if (this.#kept.boot === boot) this.#keep({ boot: { kind: 'Bare', bootId: boot.bootId } });
        return end(undefined);
      } catch (error) {
        const isDecided = error instanceof QmpError || machine.power() === 'Off' || clock.monotonic() > until;
        if (!isDecided && !this.#isClosed) {
          await new Promise<void>((resolve) => clock.setTimer(askAgainMs, resolve));
          continue;
        }
        if (this.#kept.boot === boot && machine.power() === 'On') this.#attend(boot.plan);
        return end((error as Error).message);
      }
    }
  }

  refresh(): void {
    if (this.#kept.boot.kind === 'Vmm') this.#turns.take(() => this.#lookAgain()).catch(this.#options.onError);
    this.#telling.tell();
  }

  read(): VmmReading {
    const { boot, starts } = this.#kept;
    const { machine, trusted } = this.#options;
    const isOn = machine.power() === 'On';
    const isResident = isOn && boot.kind === 'Vmm' && boot.isRunning;
    const epoch = isResident ? boot.plan.epoch : (this.#failure?.epoch ?? 0);
    const count = starts.epoch === epoch ? starts.count : 0;
    return {
      vmm: this.#isUnsure ? 'Unknown' : isResident ? 'Resident' : 'Absent',
      epoch,
      ...(starts.count > 0 ? { begunEpoch: starts.epoch } : {}),
      guest: isResident
        ? { state: 'Running', starts: count, address: dataAddress(machine.spec.index) }
        : { state: isOn && boot.kind === 'Bare' ? 'Unknown' : 'Off', starts: count },
      copy: this.#copy(isResident),
      trusted: trusted.read(machine.spec.name),
      ...(this.#failure === undefined ? {} : { failure: this.#failure.failure }),
      ...(this.#change === undefined ? {} : { change: this.#change }),
    };
  }

  #copy(isResident: boolean): NodeObservation['copy'] {
    if (this.#failure?.failure.code === 'MapInvalid') return { ...nothing, map: 'Invalid' };
    const copy = isResident ? this.#attendant.copy : undefined;
    if (copy === undefined) return nothing;
    const { totalBytes, localBytes, complete } = copy;
    return { totalBytes, localBytes, flushed: complete, inFlight: complete ? 0 : 1, map: 'Valid' };
  }

  /** Leaves the machine, and what it runs, as it is. */
  close(): void {
    this.#isClosed = true;
    this.#telling.close();
    this.#attendant.stop();
    this.mediator.close();
  }
}
