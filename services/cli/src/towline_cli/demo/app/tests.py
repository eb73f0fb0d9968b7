import unittest

from app import greeting


class GreetingTest(unittest.TestCase):
    def test_a_name_is_greeted(self) -> None:
        self.assertEqual(greeting("towline"), "hello, towline")


if __name__ == "__main__":
    unittest.main()
