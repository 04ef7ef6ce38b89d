/**
 * One machine as its BMC's Redfish service shows it: where its resources are, what they say, and what can be asked of them.
 *
 * Invariant: what became of a request is told apart: `Accepted` (done, or to be done), `Task` (to be done, and can be watched),
 * `Refused` (not done, and will not be), `NotSent` (never reached the BMC), `Unsure` (any of these).
 */
import type { PowerState } from '../port.ts';
import { type BootPlaces, effectiveBoot, type Place, placeOf } from './boot.ts';
import { complaintOf, listOf, objectOf, objectsOf, type Resource, referenceOf, textOf, textsOf } from './fields.ts';
import { type HttpAnswer, NoAnswer, pathOnBmc } from './http.ts';
import { type RedfishFacts, readFacts, uuidOf } from './inventory.ts';
import { type Quirk, quirkOf } from './quirks.ts';
import { LoginRefused, type RedfishClient } from './session.ts';

export type Outcome =
  | { readonly kind: 'Accepted' }
  | { readonly kind: 'Task'; readonly path: string }
  | { readonly kind: 'Refused'; readonly status: number; readonly message: string }
  | { readonly kind: 'NotSent'; readonly message: string }
  | { readonly kind: 'Unsure'; readonly message: string };

export interface SystemReading {
  /** Undefined while the BMC does not know it. */
  readonly uuid: string | undefined;
  readonly power: PowerState;
  /** The power is on its way: PoweringOn, PoweringOff. */
  readonly moving: boolean;
  readonly boot: Resource;
  readonly quirk: Quirk;
  readonly resetTypes: readonly string[];
  /** Where boot properties are set: the resources that take them, best first. */
  readonly bootTargets: readonly string[];
}

const serviceRoot = '/redfish/v1/';
const powerStates: Readonly<Record<string, PowerState>> = { On: 'On', Off: 'Off' };
/** A BMC that has not answered yet, or is starting: what was asked may have been done. */
const unsureStatuses = new Set([408, 500, 502, 504]);
/** It was not done now, and is welcome later. */
const laterStatuses = new Set([429, 503]);

export class RedfishSystem {
  readonly #client: RedfishClient;
  readonly #systemId: string | undefined;
  #systemPath: string | undefined;
  #vendorWords: (string | undefined)[] = [];
  #system: Resource = {};
  #resetPath: string | undefined;
  #resetTypes: readonly string[] | undefined;
  readonly #bootPlaces = new Map<string, Place>();
  #bootOptionsRead = false;

  /** @param systemId Id of the system, where the BMC has several */
  constructor(client: RedfishClient, systemId: string | undefined) {
    this.#client = client;
    this.#systemId = systemId;
  }

  get bootPlaces(): BootPlaces {
    return this.#bootPlaces;
  }

  /** @throws NoAnswer, LoginRefused, Error with a sentence */
  async #get(path: string): Promise<Resource> {
    const { status, body, headers } = await this.#client.request({ method: 'GET', path });
    if (status !== 200)
      throw new Error(`${path} was answered with HTTP ${status}: ${complaintOf(body) ?? 'no reason given'}`);
    return headers.etag === undefined ? body : { ...body, '@odata.etag': headers.etag };
  }

  async #follow(link: string | undefined): Promise<string | undefined> {
    return pathOnBmc(link, this.#client.url);
  }

  async #find(): Promise<string> {
    const root = await this.#get(serviceRoot);
    this.#vendorWords = [textOf(root.Vendor), textOf(root.Product), Object.keys(objectOf(root.Oem) ?? {}).join(' ')];
    const systems = await this.#follow(referenceOf(root.Systems));
    if (systems === undefined) throw new Error('the Redfish service has no Systems');
    const members = listOf((await this.#get(systems)).Members).flatMap(
      (member) => pathOnBmc(referenceOf(member), this.#client.url) ?? [],
    );
    const idOf = (path: string): string | undefined => path.split('/').filter(Boolean).at(-1);
    const found = this.#systemId === undefined ? members : members.filter((path) => idOf(path) === this.#systemId);
    const [only] = found;
    if (only === undefined || found.length > 1) {
      const ids = members.map(idOf).join(', ') || 'none';
      throw new Error(`the BMC has ${members.length} systems (${ids}): name the one that is meant`);
    }
    return only;
  }

  /**
   * Reads power and boot now.
   * @throws NoAnswer, LoginRefused, Error with a sentence
   */
  async read(): Promise<SystemReading> {
    this.#systemPath ??= await this.#find();
    const system = await this.#get(this.#systemPath);
    this.#system = system;
    const settingsLink = referenceOf(objectOf(objectOf(system['@Redfish.Settings'])?.SettingsObject));
    const settingsPath = await this.#follow(settingsLink ?? undefined);
    const settings = settingsPath === undefined ? undefined : await this.#get(settingsPath);
    await this.#readBootOptions(objectOf(system.Boot));
    const state = textOf(system.PowerState) ?? '';
    const ofSettings = settingsPath !== undefined && objectOf(settings?.Boot) !== undefined ? [settingsPath] : [];
    return {
      uuid: uuidOf(system),
      power: powerStates[state] ?? 'Unknown',
      moving: state === 'PoweringOn' || state === 'PoweringOff',
      boot: effectiveBoot(system, settings),
      quirk: quirkOf([...this.#vendorWords, textOf(system.Manufacturer), textOf(system.Model)]),
      resetTypes: await this.#readResetTypes(system),
      bootTargets: [...ofSettings, this.#systemPath],
    };
  }

  async #readResetTypes(system: Resource): Promise<readonly string[]> {
    const reset = objectOf(objectOf(system.Actions)?.['#ComputerSystem.Reset']);
    this.#resetPath = pathOnBmc(reset?.target, this.#client.url);
    const listed = textsOf(reset?.['ResetType@Redfish.AllowableValues']);
    if (listed.length > 0) return listed;
    if (this.#resetTypes !== undefined) return this.#resetTypes;
    const info = pathOnBmc(reset?.['@Redfish.ActionInfo'], this.#client.url);
    if (info === undefined) return [];
    const parameters = objectsOf((await this.#get(info)).Parameters);
    this.#resetTypes = textsOf(parameters.find(({ Name: name }) => name === 'ResetType')?.AllowableValues);
    return this.#resetTypes;
  }

  /** What the entries of the boot order are changes with the hardware alone; entries that are new are read anew. */
  async #readBootOptions(boot: Resource | undefined): Promise<void> {
    const order = textsOf(boot?.BootOrder);
    const link = pathOnBmc(referenceOf(boot?.BootOptions), this.#client.url);
    const allKnown = this.#bootOptionsRead && order.every((reference) => this.#bootPlaces.has(reference));
    if (link === undefined || order.length === 0 || allKnown) return;
    this.#bootOptionsRead = true;
    for (const member of listOf((await this.#get(link)).Members)) {
      const path = pathOnBmc(referenceOf(member), this.#client.url);
      const option = path === undefined ? undefined : await this.#get(path);
      const place = option === undefined ? undefined : placeOf(option);
      if (option === undefined || place === undefined) continue;
      for (const reference of [textOf(option.BootOptionReference), textOf(option.Id)]) {
        if (reference !== undefined) this.#bootPlaces.set(reference, place);
      }
    }
  }

  /** @throws as `read`, which must have been called before */
  facts(): Promise<RedfishFacts> {
    return readFacts((path) => {
      const own = pathOnBmc(path, this.#client.url);
      if (own === undefined) throw new Error('a link leads away from the BMC');
      return this.#get(own);
    }, this.#system);
  }

  async #outcome(request: () => Promise<HttpAnswer>): Promise<Outcome> {
    let answer: HttpAnswer;
    try {
      answer = await request();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (error instanceof LoginRefused || (error instanceof NoAnswer && !error.sent))
        return { kind: 'NotSent', message };
      return { kind: 'Unsure', message };
    }
    const { status, headers, body } = answer;
    const message = `HTTP ${status}: ${complaintOf(body) ?? 'no reason given'}`;
    if (status === 202) {
      const path = pathOnBmc(headers.location ?? body['@odata.id'], this.#client.url);
      return path === undefined ? { kind: 'Accepted' } : { kind: 'Task', path };
    }
    if (status >= 200 && status < 300) return { kind: 'Accepted' };
    if (laterStatuses.has(status)) return { kind: 'NotSent', message };
    return unsureStatuses.has(status) ? { kind: 'Unsure', message } : { kind: 'Refused', status, message };
  }

  reset(type: string): Promise<Outcome> {
    const path = this.#resetPath;
    if (path === undefined)
      return Promise.resolve({ kind: 'Refused', status: 0, message: 'the system has no reset action' });
    return this.#outcome(() => this.#client.request({ method: 'POST', path, body: { ResetType: type } }));
  }

  /**
   * Changes Boot, under the ETag that was read, in the forms in which BMCs take it: as it came, without its weakness, and not at all.
   * @param path one of `bootTargets`
   */
  async setBoot(path: string, boot: Resource, quirk: Quirk): Promise<Outcome> {
    let etag: string | undefined;
    try {
      etag = textOf((await this.#get(path))['@odata.etag']) ?? quirk.missingEtag;
    } catch (error) {
      return { kind: 'NotSent', message: error instanceof Error ? error.message : String(error) };
    }
    const forms = new Set([etag, etag?.replace(/^W\//, ''), undefined]);
    let outcome: Outcome = { kind: 'NotSent', message: 'nothing was sent' };
    for (const form of forms) {
      const headers: Record<string, string> = form === undefined ? {} : { 'if-match': form };
      outcome = await this.#outcome(() =>
        this.#client.request({ method: 'PATCH', path, headers, body: { Boot: boot } }),
      );
      // 412 and 428 are about the ETag, and say that nothing was done.
      if (outcome.kind !== 'Refused' || (outcome.status !== 412 && outcome.status !== 428)) return outcome;
    }
    return outcome;
  }

  /** @returns what became of the task, with the BMC's words where it failed; undefined while it goes on or cannot be read */
  async task(path: string): Promise<{ readonly failed: boolean; readonly message: string } | undefined> {
    const { status, body } = await this.#client.request({ method: 'GET', path });
    if (status === 404 || status === 410) return { failed: false, message: 'the task is gone' };
    if (status === 202) return undefined;
    const state = textOf(body.TaskState) ?? textOf(body.JobState) ?? '';
    const message =
      complaintOf({ error: { '@Message.ExtendedInfo': listOf(body.Messages) } }) ?? `the task is ${state}`;
    if (/^(exception|killed|cancelled|failed|interrupted)$/i.test(state)) return { failed: true, message };
    // A monitor of a task that has ended answers as the request itself would have.
    if (status >= 400) return { failed: true, message: `HTTP ${status}: ${complaintOf(body) ?? message}` };
    const ended =
      /^completed/i.test(state) ||
      status === 204 ||
      (status === 200 && body.TaskState === undefined && body.JobState === undefined);
    return ended ? { failed: false, message } : undefined;
  }

  /** Deletes a task. Whether it is gone says `task`. */
  async deleteTask(path: string): Promise<void> {
    await this.#client.request({ method: 'DELETE', path });
  }

  close(): Promise<void> {
    return this.#client.close();
  }
}
