/** A limit for what a hypervisor may never answer. */
import type { Clock } from '../../../controller/runtime/clock.ts';

/** Rejects as `work` does, or when it takes longer; what it comes to then is nobody's. */
export function within<Value>(clock: Clock, limitMs: number, work: Promise<Value>): Promise<Value> {
  return new Promise((resolve, reject) => {
    const cancel = clock.setTimer(limitMs, () =>
      reject(new Error(`the hypervisor did not answer within ${limitMs / 1000} s`)),
    );
    work.then(resolve, reject).finally(cancel);
  });
}
