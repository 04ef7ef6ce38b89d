/** What is kept of a machine's boots, so that an agent that starts again knows them. Readable by the agent's user alone: plans hold secrets. */
import type { VmmPlan } from '../port.ts';
import type { KeptBoot } from '../vmm-channel/agent-side.ts';
import { decode, encode, type Plan } from '../vmm-channel/messages.ts';

export interface VmmBoot {
  readonly kind: 'Vmm';
  /** Names the files of this start. */
  readonly fileId: string;
  readonly epoch: number;
  /** The message as it goes out, in base64: what it says does not change within a boot. */
  readonly plan: string;
  /** In hexadecimal, as the key is. */
  readonly bootId: string;
  readonly key: string;
  /** Its VMM was given the plan. */
  readonly isOffered: boolean;
  /** Token of the COMMIT that may have gone out, in hexadecimal. */
  readonly committed?: string;
  readonly hasLeft: boolean;
}

/** Unknown: nothing was ever seen of it. Firmware: it looks for something to boot. */
export type Boot = { readonly kind: 'Unknown' | 'Off' | 'Firmware' | 'Trusted' } | VmmBoot;

export interface Kept {
  readonly plan?: VmmPlan;
  /** The newest plan that went out. Offered: what came of it is not known yet. */
  readonly begun?: { readonly epoch: number; readonly status: 'Offered' | 'Begun' };
  readonly starts: { readonly epoch: number; readonly count: number };
  readonly boot: Boot;
}

export const nothingKept: Kept = { starts: { epoch: 0, count: 0 }, boot: { kind: 'Unknown' } };

export const keptPlan = (plan: Plan): string => {
  const { type, body } = encode(plan);
  return `${type}:${body.toString('base64')}`;
};

/** @throws Error when what is kept is no plan */
export function planIn({ plan }: VmmBoot): Plan {
  const [type, body = ''] = plan.split(':');
  const message = decode({ type: Number(type), body: Buffer.from(body, 'base64') });
  if (message?.kind !== 'Plan') throw new Error('the stored plan cannot be read');
  return message;
}

export function channelBoot({ bootId, key, committed }: VmmBoot): KeptBoot {
  return {
    ...{ bootId: Buffer.from(bootId, 'hex'), key: Buffer.from(key, 'hex') },
    ...(committed === undefined ? {} : { committed: Buffer.from(committed, 'hex') }),
  };
}
