/**
 * What a machine booted, and the agent's hand in it: answers its network boot, speaks with its hypervisor by the VMM channel and with the
 * trusted image, and finds out from outside that a hypervisor has left.
 *
 * Invariants:
 * 1. A machine is answered only while every control port of it is read back in `provisioning`; a plan goes out only while the boot server is
 *    to answer with the VMM.
 * 2. That a guest may run under a plan is stored before the plan leaves. A boot about which nothing more was heard counts as begun, and from
 *    then on the plan says Keep.
 * 3. "Commit sent" and its token are stored before COMMIT. A VMM that was sent one is absent only once that was seen from outside
 *    (departure.ts), after the machine went off, or after it booted anew; until then it is Resident or Unknown.
 * 4. What a VMM says is hostile: however much it says, it is stored and told at most once in a while, but that it has begun at once.
 * 5. What is known belongs to one start of the machine. An agent that starts again knows it, and the VMM of it, again.
 * 6. Any request for a boot ends the boot that was. It is stored where that changes what is kept, and what is given to boot is bounded in its
 *    rate (start-pace.ts): however often a machine asks, the agent writes seldom.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Failure } from '../../../controller/api/protocol.generated.ts';
import type { BootAnswer, BootFile, BootHandler } from '../boot/boot-server.ts';
import { readJsonFile, writeJsonFile } from '../boot/files.ts';
import { StartPace } from '../boot/start-pace.ts';
import { askAgainScript, type TrustedSide, trustedFile } from '../boot/trusted-boot.ts';
import type { VmmHand } from '../boot/vmm-hands.ts';
import type { Change, VmmPlan, VmmReading } from '../port.ts';
import { Telling, Turns } from '../turns.ts';
import { encodeBootRecord } from '../vmm-channel/boot-record.ts';
import type { Status } from '../vmm-channel/messages.ts';
import { channelFailure, channelRate, failureOf, hasBegun, tellsMore } from './channel-plan.ts';
import type { Evidence } from './departure.ts';
import { DepartureWatch } from './departure-watch.ts';
import { type Boot, channelBoot, type Kept, keptPlan, nothingKept, planIn, type VmmBoot } from './kept.ts';
import { News } from './news.ts';
import type { HardwareNodeOptions } from './node-options.ts';
import { planNow } from './plan-now.ts';
import { type Failed, readingOf } from './reading.ts';
import { vmmScript } from './vmm-files.ts';
import { within } from './within.ts';

/** An Off that a BMC showed before it noticed the start is not the end of it. */
const freshOffMs = 120_000;
const storeAgainMs = 1_000;

export class HardwareNode implements BootHandler, VmmHand {
  readonly #options: HardwareNodeOptions;
  #kept: Kept;
  #trustedBootId: string | undefined;
  #failure: Failed | undefined;
  #change: Change | undefined;
  #shown: Status | undefined;
  #wasOn = true;
  #bootedAt: number;
  readonly #departure: DepartureWatch;
  readonly #news: News;
  #cancelCommit = (): void => {};
  readonly #turns = new Turns();
  readonly #pace: StartPace;
  readonly #telling: Telling;
  #isClosed = false;

  constructor(options: HardwareNodeOptions) {
    const { path, clock, channels, name } = options;
    this.#options = options;
    this.#telling = new Telling(clock, () => options.changed());
    this.#pace = new StartPace(clock);
    this.#kept = readJsonFile<Kept>(path) ?? nothingKept;
    this.#bootedAt = clock.monotonic();
    this.#departure = new DepartureWatch({
      ...{ clock, times: options.times, onError: options.onError, answers: () => options.surroundings.answers() },
      evidence: () => this.#evidence(),
      onLeft: () => this.#left(),
    });
    this.#news = new News({
      ...{ clock, pauseMs: options.times.newsMs, onError: options.onError },
      take: () => this.#takeNews(),
    });
    const { boot } = this.#kept;
    if (boot.kind !== 'Vmm' || boot.hasLeft) return;
    channels.expect(name, planIn(boot), channelBoot(boot));
    if (boot.committed !== undefined) this.#departure.start();
  }

  #keep(changed: Partial<Kept>): void {
    this.#store({ ...this.#kept, ...changed });
  }

  /** @throws when the disk does not take it: then nothing has changed, here neither */
  #store(kept: Kept): void {
    writeJsonFile(this.#options.path, kept);
    this.#kept = kept;
  }

  #keepBoot(boot: VmmBoot, changed: Partial<VmmBoot>): VmmBoot {
    const next = { ...boot, ...changed };
    if (this.#kept.boot === boot) this.#keep({ boot: next });
    return next;
  }

  /** The boot that was is over. */
  #begin(boot: Exclude<Boot, VmmBoot>): void {
    const { channels, trusted, name, clock } = this.#options;
    // Such as that it failed: the last words of a start are news of that start.
    this.#news.end();
    const { begun, boot: before } = this.#kept;
    const wasTrusted = this.#trustedBootId !== undefined;
    this.#trustedBootId = undefined;
    if (wasTrusted) trusted.end(name);
    if (before.kind === 'Vmm') channels.forget(name);
    this.#departure.stop();
    if (this.#change?.status === 'Pending' && before.kind === 'Vmm') {
      this.#change = { ...this.#change, status: 'Error', error: 'the machine started anew or went off' };
    }
    this.#shown = undefined;
    // Nobody can say any more what became of a plan that went out.
    const isOpen = begun?.status === 'Offered';
    const isNews = before.kind !== boot.kind || isOpen;
    if (isNews) this.#keep({ boot, ...(isOpen ? { begun: { epoch: begun.epoch, status: 'Begun' } } : {}) });
    this.#wasOn = false;
    this.#bootedAt = clock.monotonic();
    if (isNews) this.#telling.tell();
  }

  #fail(epoch: number, failure: Failure): void {
    this.#failure = { epoch, failure };
    this.#telling.tell();
  }

  // What the boot server asks.

  boot(): Promise<BootAnswer> {
    return this.#turns.take(async () => {
      const isReachable = this.isReachable();
      const serving = isReachable ? this.#options.surroundings.images().serving : 'Nothing';
      const isTooOften = serving !== 'Nothing' && !this.#pace.take();
      this.#begin({ kind: serving === 'Trusted' && !isTooOften ? 'Trusted' : 'Firmware' });
      if (isTooOften) return this.#nothing('asked too often');
      this.#forgetFailure();
      if (serving === 'Trusted') return this.#startTrusted();
      if (serving === 'Vmm') return this.#startVmm();
      return this.#nothing(isReachable ? 'nothing to boot' : 'control port not in provisioning');
    });
  }

  #forgetFailure(): void {
    if (this.#failure === undefined) return;
    this.#failure = undefined;
    this.#telling.tell();
  }

  /** Whether the machine may be answered at all. */
  isReachable(): boolean {
    const control = this.#options.surroundings.fabric().ports.filter(({ role }) => role === 'Control');
    return control.length > 0 && control.every(({ state, domain }) => state === 'Ready' && domain === 'provisioning');
  }

  #nothing(why: string): BootAnswer {
    return { script: askAgainScript(this.#options.server, this.#failure?.failure.code ?? why) };
  }

  #startTrusted(): BootAnswer {
    const { trusted, trustedImage, name, server, control } = this.#options;
    const { kernelArguments = [] } = trustedImage;
    const { mac, address } = control;
    const { bootId, script } = trusted.begin(name, {
      ...{ server, control: mac, kernelArguments },
      ...(address === undefined ? {} : { address }),
    });
    this.#trustedBootId = bootId;
    return { script };
  }

  async #startVmm(): Promise<BootAnswer> {
    const { channels, name, server, surroundings, vmmFiles, random } = this.#options;
    const { plan, begun } = this.#kept;
    const start = begun?.epoch === plan?.epoch ? 'Keep' : plan?.start;
    const made =
      plan === undefined || start === undefined
        ? failureOf('VmmFailed', 'the boot server has no plan')
        : await planNow(plan, start, surroundings);
    if (plan === undefined || 'code' in made) {
      this.#fail(plan?.epoch ?? 0, made as Failure);
      return this.#nothing('no plan');
    }
    const { bootId, key } = channels.expect(name, made);
    const fileId = random.uuid();
    const boot: VmmBoot = {
      ...{ kind: 'Vmm', fileId, epoch: plan.epoch, isOffered: false, hasLeft: false },
      ...{ bootId: bootId.toString('hex'), key: key.toString('hex') },
      plan: keptPlan(made),
    };
    this.#keep({ boot });
    return { script: vmmScript({ server, fileId, ...vmmFiles }) };
  }

  file(id: string, name: string): BootFile | undefined {
    const { trustedImage, vmmFiles, channel } = this.#options;
    const { boot } = this.#kept;
    if (id === this.#trustedBootId) return trustedFile(trustedImage, name);
    // Whoever speaks for this boot has its key already: nobody needs it again.
    if (boot.kind !== 'Vmm' || id !== boot.fileId || boot.isOffered) return undefined;
    if (!/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/.test(name)) return undefined;
    const path = join(vmmFiles.directory, name);
    if (!name.endsWith('.elf')) return { path };
    const { bootId, key } = channelBoot(boot);
    return { path, trailer: encodeBootRecord({ ...channel, bootId, key, epoch: BigInt(boot.epoch), tls: false }) };
  }

  async trusted(request: IncomingMessage, response: ServerResponse): Promise<boolean> {
    const isOwn = request.url?.startsWith(`/trusted/${this.#trustedBootId}/`) === true;
    return isOwn && this.#options.trusted.handle(request, response);
  }

  // What the channel asks and tells.

  /** Whether the plan of this boot may go out; stored before it does. */
  mayPlan(): boolean {
    const { boot, begun } = this.#kept;
    if (boot.kind !== 'Vmm' || boot.committed !== undefined) return false;
    // One that runs already keeps its plan, and ignores a second one.
    if (boot.isOffered) return true;
    if (this.#options.surroundings.images().serving !== 'Vmm') return false;
    const isKnown = begun?.epoch === boot.epoch;
    this.#keep({
      boot: { ...boot, isOffered: true },
      ...(isKnown ? {} : { begun: { epoch: boot.epoch, status: 'Offered' } }),
    });
    this.#telling.tell();
    return true;
  }

  channelChanged(): void {
    const { boot, begun } = this.#kept;
    if (boot.kind !== 'Vmm' || this.#isClosed) return;
    this.#departure.heard();
    const { status } = this.#options.channels.read(this.#options.name);
    const begins = status !== undefined && hasBegun(status) && begun?.status !== 'Begun';
    if (begins) this.#news.takeNow();
    else this.#news.came();
  }

  #takeNews(): void {
    const { channels, name } = this.#options;
    const { boot, begun, starts } = this.#kept;
    if (boot.kind !== 'Vmm' || this.#isClosed) return;
    const { status, failure, connected, refusal } = channels.read(name);
    if (status !== undefined && hasBegun(status)) {
      const count = Math.max(status.starts, starts.epoch === boot.epoch ? starts.count : 0);
      const isNew = begun?.status !== 'Begun' || starts.epoch !== boot.epoch || starts.count !== count;
      if (isNew) this.#keep({ begun: { epoch: boot.epoch, status: 'Begun' }, starts: { epoch: boot.epoch, count } });
    }
    const gaveUp = failure !== undefined && status !== undefined && !hasBegun(status);
    if (gaveUp && begun?.status === 'Offered') {
      // It said itself that nothing was begun: the next boot may start fresh.
      const { begun: _withdrawn, ...rest } = this.#kept;
      this.#store(rest);
    }
    if (failure !== undefined) this.#fail(boot.epoch, channelFailure(failure));
    if (refusal !== undefined && boot.committed !== undefined) this.#refused(boot, refusal);
    if (!connected || tellsMore(this.#shown, status)) this.#telling.tell();
    // Heard again is news, whatever it says.
    this.#shown = connected ? status : undefined;
  }

  /** Power was read anew. */
  powerChanged(): void {
    const { surroundings, clock, onError } = this.#options;
    const { state } = surroundings.power();
    if (state === 'On') this.#wasOn = true;
    const isOver = this.#wasOn || clock.monotonic() - this.#bootedAt >= freshOffMs;
    if (state !== 'Off' || !isOver || this.#kept.boot.kind === 'Off' || this.#isClosed) return;
    try {
      this.#begin({ kind: 'Off' });
    } catch (error) {
      onError(error);
      // Nobody waits for an answer: a disk that is full must not end the agent of a rack.
      clock.setTimer(storeAgainMs, () => this.powerChanged());
    }
  }

  refresh(): void {
    this.powerChanged();
  }

  // What the agent asks.

  plan(plan: VmmPlan | undefined): void {
    const { plan: _before, ...rest } = this.#kept;
    this.#store(plan === undefined ? rest : { ...rest, plan });
  }

  throttle(maxRateBytes: number): void {
    this.#options.channels.throttle(this.#options.name, channelRate(maxRateBytes));
  }

  notify(message: string): void {
    this.#options.channels.notify(this.#options.name, message);
  }

  devirtualize(token: string): void {
    this.#change = { token, status: 'Pending' };
    this.#leave(token).catch((error: unknown) => this.#end(token, (error as Error).message));
    this.#telling.tell();
  }

  inTrusted(token: string, work: (trusted: TrustedSide, node: string) => Promise<void>): void {
    this.#change = { token, status: 'Pending' };
    work(this.#options.trusted, this.#options.name).then(
      () => this.#end(token, undefined),
      (error: unknown) => this.#end(token, (error as Error).message),
    );
    this.#telling.tell();
  }

  #end(token: string, error: string | undefined): void {
    if (this.#change?.token !== token || this.#change.status !== 'Pending') return;
    this.#cancelCommit();
    this.#change = error === undefined ? { token, status: 'Done' } : { token, status: 'Error', error };
    this.#telling.tell();
  }

  /** Rejects while it is certain that nothing follows. */
  async #leave(token: string): Promise<void> {
    const { channels, name, surroundings, clock, times } = this.#options;
    const { boot } = this.#kept;
    if (boot.kind !== 'Vmm') throw new Error('no hypervisor of this agent runs on the machine');
    if (boot.hasLeft) return this.#end(token, undefined);
    if (boot.committed === undefined) {
      if (surroundings.images().exported !== 'Closed') throw new Error('the image is still exported');
      const prepared = await within(clock, times.prepareMs, channels.prepare(name));
      if (this.#kept.boot !== boot) throw new Error('the machine started anew');
      const committed = this.#keepBoot(boot, { committed: prepared.toString('hex') });
      try {
        channels.commit(name);
      } catch (error) {
        // It was not sent, and must not be after a restart.
        if (this.#kept.boot === committed) this.#keep({ boot });
        throw error;
      }
    }
    this.#cancelCommit();
    this.#cancelCommit = clock.setTimer(times.commitMs, () =>
      this.#end(token, 'uncertain: the hypervisor was told to leave, and was not seen to be gone'),
    );
    this.#departure.start();
  }

  #refused(boot: VmmBoot, reason: string): void {
    const { committed: _void, ...rest } = boot;
    if (this.#kept.boot !== boot) return;
    this.#keep({ boot: rest });
    this.#departure.stop();
    if (this.#change !== undefined) this.#end(this.#change.token, reason);
  }

  #evidence(): Omit<Evidence, 'silentMs' | 'answers'> {
    const { channels, name, surroundings } = this.#options;
    const { connected, leaving } = channels.read(name);
    return {
      ...{ connected, saidSo: leaving, couldSpeak: this.isReachable(), power: surroundings.power().state },
      exportClosed: surroundings.images().exported === 'Closed',
    };
  }

  #left(): void {
    const { boot } = this.#kept;
    if (boot.kind !== 'Vmm' || boot.committed === undefined) return;
    this.#keepBoot(boot, { hasLeft: true });
    this.#options.channels.forget(this.#options.name);
    if (this.#change !== undefined) this.#end(this.#change.token, undefined);
    this.#telling.tell();
  }

  read(): VmmReading {
    const { trusted, name, guestAddress, surroundings, channels } = this.#options;
    return readingOf({
      kept: this.#kept,
      power: surroundings.power().state,
      channel: channels.read(name),
      failed: this.#failure,
      change: this.#change,
      trusted: trusted.read(name),
      guestAddress,
    });
  }

  /** Leaves the machine, and what it runs, as it is. */
  close(): void {
    const { trusted, channels, name } = this.#options;
    this.#isClosed = true;
    this.#telling.close();
    this.#departure.stop();
    this.#news.stop();
    this.#cancelCommit();
    trusted.end(name);
    channels.forget(name);
  }
}
