// SPDX-License-Identifier: Apache-2.0
package edgekd.bundle

import android.util.Log
import androidx.test.platform.app.InstrumentationRegistry
import edgekd.bundle.android.AndroidBundle
import org.junit.Assert.assertEquals
import org.junit.Test

class SelfTestOnDevice {
    @Test
    fun theBundleProvesItself() {
        val said = ArrayList<String>()
        AndroidBundle.selfTest(InstrumentationRegistry.getInstrumentation().targetContext) { line ->
            Log.i("edgekd", line)
            said.add(line)
        }
        assertEquals(said.joinToString("\n"), "PASS", said.last())
    }
}
